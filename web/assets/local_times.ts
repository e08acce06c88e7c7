// Times come from the server in UTC; the viewer reads them in their own zone and language.

export function showLocalTimes(root: ParentNode = document): void {
  const formats = {
    long: new Intl.DateTimeFormat(document.documentElement.lang, {
      dateStyle: "medium",
      timeStyle: "long",
    }),
    short: new Intl.DateTimeFormat(document.documentElement.lang, {
      month: "short",
      day: "numeric",
      hour: "2-digit",
      minute: "2-digit",
      second: "2-digit",
      hourCycle: "h23",
    }),
  };
  for (const element of root.querySelectorAll<HTMLTimeElement>("time[data-local]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    element.title ||= element.textContent ?? "";
    element.textContent = formats[element.dataset.local === "long" ? "long" : "short"].format(moment);
  }
}
