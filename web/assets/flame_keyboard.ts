// Keys of the flame graph. They act only while the graph has the focus, so they never surprise anyone typing.

export interface Commands {
  parent(): void;
  child(): void;
  left(): void;
  right(): void;
  zoomToSelected(): void;
  reset(): void;
  focusSearch(): void;
  nextMatch(): void;
  previousMatch(): void;
  toggleOwnOnly(): void;
}

const KEYS: Record<string, keyof Commands> = {
  ArrowUp: "parent",
  ArrowDown: "child",
  ArrowLeft: "left",
  ArrowRight: "right",
  Enter: "zoomToSelected",
  Escape: "reset",
  "0": "reset",
  "/": "focusSearch",
  n: "nextMatch",
  N: "previousMatch",
  o: "toggleOwnOnly",
};

export function listenToKeys(graph: HTMLElement, commands: Commands): void {
  graph.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const command = KEYS[event.key];
    if (!command) return;
    event.preventDefault();
    commands[command]();
  });
}

/** Enter and Shift+Enter in the search box go through the matches, Escape empties it. */
export function listenToSearchKeys(
  box: HTMLInputElement,
  commands: Pick<Commands, "nextMatch" | "previousMatch">,
  leave: () => void,
): void {
  box.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") {
      event.preventDefault();
      if (event.shiftKey) commands.previousMatch();
      else commands.nextMatch();
    } else if (event.key === "Escape") {
      event.preventDefault();
      leave();
    }
  });
}
