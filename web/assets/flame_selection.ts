// The panel below the graph: everything about the selected frame, and its name and stack to copy.
import { copyOnClick } from "./copying";
import { duration, message, share } from "./format";
import { everywhere } from "./flame_search";
import { location, pathTo, type FlameTree } from "./flame_tree";

export class SelectionPanel {
  private tree: FlameTree | null = null;
  private node = -1;

  constructor(
    private readonly panel: HTMLElement,
    private readonly everywhereTemplate: string,
  ) {
    copyOnClick(this.button("copy-name"), () => this.name());
    copyOnClick(this.button("copy-stack"), () => this.stack());
  }

  show(tree: FlameTree, node: number): void {
    [this.tree, this.node] = [tree, node];
    this.panel.dataset.state = node < 0 ? "empty" : "selected";
    if (node < 0) return;
    const frame = tree.frames[tree.frame[node]];
    const whole = tree.total[0];
    const { total, places } = everywhere(tree, tree.frame[node]);
    this.fill("name", frame.name);
    this.fill("location", location(frame));
    this.fill("total", `${duration(tree.total[node])} · ${share(tree.total[node], whole)}`);
    this.fill("self", `${duration(tree.self[node])} · ${share(tree.self[node], whole)}`);
    this.fill(
      "everywhere",
      message(this.everywhereTemplate, { total: duration(total), share: share(total, whole), places }),
    );
  }

  private name(): string {
    return this.tree ? this.tree.frames[this.tree.frame[this.node]].name : "";
  }

  private stack(): string {
    const { tree } = this;
    if (!tree) return "";
    return pathTo(tree, this.node)
      .map((node) => tree.frames[tree.frame[node]])
      .map((frame) => (location(frame) ? `${frame.name} (${location(frame)})` : frame.name))
      .join("\n");
  }

  private fill(field: string, text: string): void {
    this.panel.querySelector(`[data-field="${field}"]`)!.textContent = text;
  }

  private button(name: string): HTMLButtonElement {
    return this.panel.querySelector(`[data-action="${name}"]`)!;
  }
}
