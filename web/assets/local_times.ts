// Times come from the server in UTC; the viewer reads them in their own zone and language.

export function showLocalTimes(root: ParentNode = document): void {
  // The page's language decides; among its variants the browser's own ("en-GB") wins.
  const language = document.documentElement.lang;
  const locale = navigator.languages.find((tag) => tag.split("-")[0] === language.split("-")[0]) ?? language;
  const formats = {
    long: new Intl.DateTimeFormat(locale, {
      year: "numeric",
      month: "short",
      day: "numeric",
      hour: "2-digit",
      minute: "2-digit",
      second: "2-digit",
      fractionalSecondDigits: 3,
      hourCycle: "h23",
      timeZoneName: "short",
    }),
    short: new Intl.DateTimeFormat(locale, {
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
