// What the user looks at, kept behind the `#` of the address, so that the address can be shared.
// Nodes are numbers of the recorded tree, which never changes.

export interface ViewState {
  zoom: number;
  selected: number;
  search: string;
  ownOnly: boolean;
}

export function readState(hash: string, nodeCount: number): ViewState {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const node = (name: string, otherwise: number): number => {
    const text = values.get(name) ?? "";
    return /^\d{1,9}$/.test(text) && Number(text) < nodeCount ? Number(text) : otherwise;
  };
  return {
    zoom: node("zoom", 0),
    selected: node("node", -1),
    search: (values.get("search") ?? "").slice(0, 200),
    ownOnly: values.get("own") === "1",
  };
}

export function writeState(state: ViewState): string {
  const values = new URLSearchParams();
  if (state.zoom) values.set("zoom", String(state.zoom));
  if (state.selected >= 0) values.set("node", String(state.selected));
  if (state.search) values.set("search", state.search);
  if (state.ownOnly) values.set("own", "1");
  return values.size ? `#${values}` : "";
}

/** Zooming makes a step in the browser's history; everything else only changes the address. */
export function showInAddress(state: ViewState, step: boolean): void {
  const hash = writeState(state);
  if (hash === location.hash) return;
  const address = location.pathname + location.search + hash;
  if (step) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}
