// Every page: times in the viewer's zone, copy buttons.
import { copyOnClick } from "./copying";
import { showLocalTimes } from "./local_times";

showLocalTimes();
for (const button of document.querySelectorAll<HTMLElement>("button[data-copy]")) {
  copyOnClick(button, () => button.dataset.copy ?? "");
}
