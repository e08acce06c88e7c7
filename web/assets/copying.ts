// Buttons that copy a text and say so for a moment.

const SAID_FOR_MS = 1500;

/** Copies what `text` gives; the button's `data-copied` replaces its label for a moment. */
export function copyOnClick(button: HTMLElement, text: () => string): void {
  const label = button.querySelector<HTMLElement>("[data-label]") ?? button;
  const original = label.textContent;
  let timer = 0;
  button.addEventListener("click", async () => {
    await copy(text());
    label.textContent = button.dataset.copied ?? original;
    clearTimeout(timer);
    timer = window.setTimeout(() => (label.textContent = original), SAID_FOR_MS);
  });
}

async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyWithoutPermission(text);
  }
}

/** Plain http on another host than localhost has no clipboard object. */
function copyWithoutPermission(text: string): void {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
