// What the pointer is on. A popover, because the scrolling graph would clip anything inside it. Text only.
import { duration, message, share } from "./format";
import { location, type FlameTree } from "./flame_tree";

const OFFSET = 14;

export class Tooltip {
  constructor(
    private readonly element: HTMLElement,
    private readonly timesTemplate: string,
  ) {}

  show(tree: FlameTree, node: number, x: number, y: number): void {
    const frame = tree.frames[tree.frame[node]];
    const whole = tree.total[0];
    const [name, place, times] = this.element.children;
    name.textContent = frame.name;
    place.textContent = location(frame);
    times.textContent = message(this.timesTemplate, {
      total: duration(tree.total[node]),
      total_share: share(tree.total[node], whole),
      self: duration(tree.self[node]),
      self_share: share(tree.self[node], whole),
    });
    if (!this.element.matches(":popover-open")) this.element.showPopover();
    const box = this.element.getBoundingClientRect();
    const left = x + OFFSET + box.width > innerWidth ? Math.max(4, x - OFFSET - box.width) : x + OFFSET;
    const top = y + OFFSET + box.height > innerHeight ? Math.max(4, y - OFFSET - box.height) : y + OFFSET;
    this.element.style.left = `${left}px`;
    this.element.style.top = `${top}px`;
  }

  hide(): void {
    if (this.element.matches(":popover-open")) this.element.hidePopover();
  }
}
