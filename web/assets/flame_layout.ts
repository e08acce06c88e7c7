// Where each frame lies: rows are depths from the top, widths are shares of the zoomed frame. No drawing here.
import { isWithin, type FlameTree } from "./flame_tree";

export const ROW_HEIGHT = 18;

/** Frames narrower than this (CSS pixels) are neither drawn nor reached by keys; zooming in shows them. */
const NARROWEST = 0.5;

export interface View {
  tree: FlameTree;
  /** The frame that fills the width; its ancestors lie above it in full width. */
  zoom: number;
  /** CSS pixels. */
  width: number;
}

/** Left edge and width of a frame in CSS pixels. */
export function extent(view: View, node: number): { x: number; width: number } {
  const { tree, zoom, width } = view;
  if (!isWithin(tree, node, zoom)) return { x: 0, width: isWithin(tree, zoom, node) ? width : 0 };
  if (tree.total[zoom] === 0) return { x: 0, width: node === zoom ? width : 0 };
  const scale = width / tree.total[zoom];
  return { x: (tree.start[node] - tree.start[zoom]) * scale, width: tree.total[node] * scale };
}

/** Visits what is wide enough to be seen in the rows `first` to `last`, parents before children. */
export function eachVisible(
  view: View,
  first: number,
  last: number,
  visit: (node: number, x: number, width: number) => void,
): void {
  const { tree, zoom, width } = view;
  for (let node = tree.parent[zoom]; node >= 0; node = tree.parent[node]) {
    if (tree.depth[node] >= first && tree.depth[node] <= last) visit(node, 0, width);
  }
  const scale = tree.total[zoom] ? width / tree.total[zoom] : 0;
  const left = tree.start[zoom];
  let node = zoom;
  while (node < tree.end[zoom]) {
    const wide = node === zoom ? width : tree.total[node] * scale;
    if (wide < NARROWEST || tree.depth[node] > last) {
      node = tree.end[node];
      continue;
    }
    if (tree.depth[node] >= first) visit(node, (tree.start[node] - left) * scale, wide);
    node++;
  }
}

/** The frame at a point (CSS pixels from the top left of the whole graph), or -1. */
export function frameAt(view: View, x: number, y: number): number {
  const { tree, zoom, width } = view;
  const row = Math.floor(y / ROW_HEIGHT);
  if (row < 0 || x < 0 || x >= width) return -1;
  let node = zoom;
  while (tree.depth[node] > row) node = tree.parent[node];
  const time = tree.start[zoom] + (x / width) * tree.total[zoom];
  while (node >= 0 && tree.depth[node] < row) node = childAt(tree, node, time);
  return node;
}

/** The child with the largest total, or -1. */
export function heaviestChild(tree: FlameTree, node: number): number {
  let best = -1;
  for (let child = node + 1; child < tree.end[node]; child = tree.end[child]) {
    if (best < 0 || tree.total[child] > tree.total[best]) best = child;
  }
  return best;
}

/** The nearest visible frame to the left (-1) or right (1) of `node` in its row, or -1. */
export function neighbour(view: View, node: number, direction: -1 | 1): number {
  const row = view.tree.depth[node];
  const from = view.tree.start[node];
  let best = -1;
  eachVisible(view, row, row, (other) => {
    const start = view.tree.start[other];
    if (other === node || (direction > 0 ? start < from || other < node : start > from || other > node)) return;
    if (best < 0 || (direction > 0 ? other < best : other > best)) best = other;
  });
  return best;
}

function childAt(tree: FlameTree, node: number, time: number): number {
  for (let child = node + 1; child < tree.end[node]; child = tree.end[child]) {
    if (time >= tree.start[child] && time < tree.start[child] + tree.total[child]) return child;
  }
  return -1;
}
