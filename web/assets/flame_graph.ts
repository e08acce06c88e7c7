// The flame graph of one record: holds the state, wires the parts, redraws. The parts know nothing of each other.
import { duration, message, share } from "./format";
import { listenToKeys, listenToSearchKeys, type Commands } from "./flame_keyboard";
import { extent, frameAt, heaviestChild, neighbour, ROW_HEIGHT, type View } from "./flame_layout";
import { Painter } from "./flame_painting";
import { nextMatch, search, type Matches } from "./flame_search";
import { SelectionPanel } from "./flame_selection";
import { Tooltip } from "./flame_tooltip";
import { isWithin, location as locationOf, ownCodeOnly, treeFrom, type Columns, type FlameTree } from "./flame_tree";
import { readState, showInAddress, type ViewState } from "./flame_url_state";

/** Rows of ancestors that stay in sight above the zoomed frame. */
const CONTEXT_ROWS = 3;
/** A match narrower than this (CSS pixels) is zoomed to when it is stepped to. */
const NARROW_MATCH = 3;

interface Messages {
  tooltip: string;
  everywhere: string;
  matches: string;
  noMatch: string;
  announce: string;
  noOwnCode: string;
  failed: string;
}

export class FlameGraph {
  private readonly window: HTMLElement;
  private readonly extent: HTMLElement;
  private readonly canvas: HTMLCanvasElement;
  private readonly searchBox: HTMLInputElement;
  private readonly matchText: HTMLElement;
  private readonly ownOnlyBox: HTMLInputElement;
  private readonly resetButton: HTMLButtonElement;
  private readonly status: HTMLElement;
  private readonly live: HTMLElement;
  private readonly painter: Painter;
  private readonly tooltip: Tooltip;
  private readonly panel: SelectionPanel;
  private readonly messages: Messages;

  private recorded!: FlameTree;
  private ownCode: FlameTree | null = null;
  private state: ViewState = { zoom: 0, selected: -1, search: "", ownOnly: false };
  private view!: View;
  private matches!: Matches;
  private hovered = -1;
  private frameRequested = false;

  constructor(private readonly section: HTMLElement) {
    const part = <Type extends HTMLElement>(name: string) =>
      section.querySelector<Type>(`[data-part="${name}"]`)!;
    this.messages = JSON.parse(section.dataset.messages!) as Messages;
    this.window = part("window");
    this.extent = part("extent");
    this.canvas = part<HTMLCanvasElement>("canvas");
    this.searchBox = part<HTMLInputElement>("search");
    this.matchText = part("matches");
    this.ownOnlyBox = part<HTMLInputElement>("own-only");
    this.resetButton = part<HTMLButtonElement>("reset");
    this.status = part("status");
    this.live = part("live");
    this.painter = new Painter(this.canvas);
    this.tooltip = new Tooltip(part("tooltip"), this.messages.tooltip);
    this.panel = new SelectionPanel(part("panel"), this.messages.everywhere);
  }

  /** Fetches the data and shows the view that the address describes. */
  async load(): Promise<void> {
    try {
      const response = await fetch(this.section.dataset.source!, { headers: { Accept: "application/json" } });
      if (!response.ok) throw new Error(`${response.status}`);
      this.recorded = treeFrom((await response.json()) as Columns, this.section.dataset.root!);
    } catch {
      this.status.textContent = this.messages.failed;
      this.section.dataset.state = "failed";
      return;
    }
    this.section.dataset.state = "ready";
    this.listen();
    this.apply(readState(location.hash, this.recorded.parent.length));
  }

  /** Puts `text` into the search box, as if it was typed, and goes to the first match. */
  searchFor(text: string): void {
    if (!this.recorded) return;
    this.searchBox.value = text;
    this.change({ search: text });
    this.goToMatch(1);
    this.section.scrollIntoView({ block: "start" });
    this.window.focus({ preventScroll: true });
  }

  private listen(): void {
    const commands = this.commands();
    listenToKeys(this.window, commands);
    listenToSearchKeys(this.searchBox, commands, () => {
      this.searchBox.value = "";
      this.change({ search: "" });
      this.window.focus();
    });
    this.searchBox.addEventListener("input", () => this.change({ search: this.searchBox.value }));
    this.ownOnlyBox.addEventListener("change", () => this.change({ ownOnly: this.ownOnlyBox.checked }));
    this.resetButton.addEventListener("click", () => commands.reset());
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("click", (event) => {
      const node = this.nodeAt(event);
      if (node >= 0) this.select(node, true);
    });
    this.window.addEventListener("scroll", () => this.redraw());
    addEventListener("popstate", () => this.apply(readState(location.hash, this.recorded.parent.length)));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.painter.readTheme();
      this.redraw();
    });
    new ResizeObserver(() => this.resize()).observe(this.window);
    this.watchPixelRatio();
  }

  private commands(): Commands {
    const step = (next: (node: number) => number) => () => {
      const from = this.selected >= 0 ? next(this.selected) : this.view.zoom;
      if (from >= 0) this.select(from, false);
    };
    return {
      parent: step((node) => this.tree.parent[node]),
      child: step((node) => heaviestChild(this.tree, node)),
      left: step((node) => neighbour(this.view, node, -1)),
      right: step((node) => neighbour(this.view, node, 1)),
      zoomToSelected: () => this.selected >= 0 && this.select(this.selected, true),
      reset: () => this.change({ zoom: 0 }, true),
      focusSearch: () => this.searchBox.select(),
      nextMatch: () => this.goToMatch(1),
      previousMatch: () => this.goToMatch(-1),
      toggleOwnOnly: () => this.change({ ownOnly: !this.state.ownOnly }),
    };
  }

  private get tree(): FlameTree {
    return this.view.tree;
  }

  /** The selected node of the tree that is shown, or -1. */
  private get selected(): number {
    return this.state.selected < 0 ? -1 : this.tree.shownAs[this.state.selected];
  }

  /** `node` belongs to the shown tree; the state always names nodes of the recorded one. */
  private select(node: number, zoom: boolean): void {
    const recorded = this.tree.recorded[node];
    // A selected frame outside of the zoomed one would be invisible: widen the view to hold it.
    let zoomTo = zoom ? node : this.view.zoom;
    while (!zoom && !isWithin(this.tree, node, zoomTo) && !isWithin(this.tree, zoomTo, node)) {
      zoomTo = this.tree.parent[zoomTo];
    }
    const zoomed = this.tree.recorded[zoomTo];
    this.change({ selected: recorded, zoom: zoomed }, zoomed !== this.state.zoom);
    this.scrollTo(node);
    this.announce(node);
  }

  private goToMatch(direction: -1 | 1): void {
    const node = nextMatch(this.matches, this.selected, direction);
    if (node < 0) return;
    this.select(node, false);
    if (extent(this.view, node).width >= NARROW_MATCH) return;
    this.change({ zoom: this.tree.recorded[Math.max(0, this.tree.parent[node])] }, true);
    this.scrollTo(node);
  }

  private change(part: Partial<ViewState>, step = false): void {
    this.apply({ ...this.state, ...part });
    showInAddress(this.state, step);
  }

  private apply(state: ViewState): void {
    const treeChanges = !this.view || state.ownOnly !== this.state.ownOnly;
    const searchChanges = treeChanges || state.search !== this.state.search;
    const zoomChanges = treeChanges || state.zoom !== this.state.zoom;
    this.state = state;
    if (treeChanges) {
      const tree = state.ownOnly ? (this.ownCode ??= ownCodeOnly(this.recorded)) : this.recorded;
      this.view = { tree, zoom: 0, width: this.window.clientWidth };
      this.hovered = -1;
    }
    this.view.zoom = this.tree.shownAs[state.zoom];
    if (searchChanges) this.matches = search(this.tree, state.search);
    if (this.searchBox.value !== state.search) this.searchBox.value = state.search;
    this.ownOnlyBox.checked = state.ownOnly;
    this.resetButton.disabled = this.view.zoom === 0;
    this.matchText.textContent = this.describeMatches();
    this.status.textContent = state.ownOnly && this.tree.parent.length === 1 ? this.messages.noOwnCode : "";
    this.panel.show(this.tree, this.selected);
    if (treeChanges) this.resize();
    if (zoomChanges) this.scrollTo(this.view.zoom);
    this.redraw();
  }

  private describeMatches(): string {
    if (!this.state.search.trim()) return "";
    const { nodes, covered } = this.matches;
    if (!nodes.length) return this.messages.noMatch;
    return message(this.messages.matches, { share: share(covered, this.tree.total[0]), count: nodes.length });
  }

  private announce(node: number): void {
    const frame = this.tree.frames[this.tree.frame[node]];
    this.live.textContent = message(this.messages.announce, {
      name: frame.name,
      location: locationOf(frame),
      total: duration(this.tree.total[node]),
      share: share(this.tree.total[node], this.tree.total[0]),
    });
  }

  private nodeAt(event: MouseEvent): number {
    const box = this.canvas.getBoundingClientRect();
    return frameAt(this.view, event.clientX - box.left, event.clientY - box.top + this.window.scrollTop);
  }

  private hover(event: PointerEvent): void {
    const node = this.nodeAt(event);
    if (node < 0) {
      this.leave();
      return;
    }
    this.tooltip.show(this.tree, node, event.clientX, event.clientY);
    if (node !== this.hovered) {
      this.hovered = node;
      this.redraw();
    }
  }

  private leave(): void {
    this.tooltip.hide();
    this.hovered = -1;
    this.redraw();
  }

  private scrollTo(node: number): void {
    const top = this.tree.depth[node] * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.window;
    const isVisible = top >= scrollTop && top + ROW_HEIGHT <= scrollTop + clientHeight;
    if (!isVisible) this.window.scrollTop = top - CONTEXT_ROWS * ROW_HEIGHT;
  }

  private resize(): void {
    this.extent.style.height = `${(this.tree.maxDepth + 1) * ROW_HEIGHT}px`;
    this.view.width = this.window.clientWidth;
    this.painter.resize(this.window.clientWidth, this.window.clientHeight);
    this.draw();
  }

  private redraw(): void {
    if (this.frameRequested) return;
    this.frameRequested = true;
    requestAnimationFrame(() => {
      this.frameRequested = false;
      this.draw();
    });
  }

  private draw(): void {
    this.painter.paint({
      view: this.view,
      matches: this.matches,
      searching: this.state.search.trim() !== "",
      selected: this.selected,
      hovered: this.hovered,
      scrollTop: this.window.scrollTop,
    });
    this.section.dataset.drawn = String(Number(this.section.dataset.drawn ?? 0) + 1);
  }

  /** Moving to another screen or zooming the page changes how many device pixels a CSS pixel has. */
  private watchPixelRatio(): void {
    matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener(
      "change",
      () => {
        this.resize();
        this.watchPixelRatio();
      },
      { once: true },
    );
  }
}
