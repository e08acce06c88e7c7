// The call tree in memory: flat columns in preorder, so a subtree is the range from a node to its `end`.

/** What flame.json holds (web/flame_data.py documents it). */
export interface Columns {
  v: number;
  names: { function: string[]; file: string[]; line: number[]; own: number[] };
  nodes: { parent: number[]; frame: number[]; self_us: number[]; samples: number[] };
}

export interface Frame {
  name: string;
  file: string;
  line: number;
  own: boolean;
}

export interface FlameTree {
  frames: Frame[];
  parent: Int32Array;
  frame: Int32Array;
  /** Own time in microseconds, without children. */
  self: Float64Array;
  samples: Int32Array;
  /** Time with children. */
  total: Float64Array;
  /** Where a node begins, in microseconds from the left edge of the root. */
  start: Float64Array;
  depth: Int32Array;
  /** The node after the last descendant. */
  end: Int32Array;
  maxDepth: number;
  /** For each node of this tree the node of the recorded tree that it stands for (the first, if merged). */
  recorded: Int32Array;
  /** For each node of the recorded tree the node of this tree that shows its time. */
  shownAs: Int32Array;
}

/** The recorded tree; its root bears `rootName`. */
export function treeFrom(columns: Columns, rootName: string): FlameTree {
  const { names, nodes } = columns;
  const frames = names.function.map((name, index) => ({
    name,
    file: names.file[index],
    line: names.line[index],
    own: names.own[index] === 1,
  }));
  const frame = Int32Array.from(nodes.frame);
  frames[frame[0]] = { ...frames[frame[0]], name: rootName };
  const identity = Int32Array.from(frame.keys());
  const parent = Int32Array.from(nodes.parent);
  const self = Float64Array.from(nodes.self_us);
  return complete(frames, parent, frame, self, Int32Array.from(nodes.samples), identity, identity);
}

/**
 * Only own code: every library frame is folded into the nearest own-code frame above it (or the root), and
 * what then is the same function under the same parent becomes one node. No time is lost.
 */
export function ownCodeOnly(tree: FlameTree): FlameTree {
  const count = tree.parent.length;
  const folded = new Int32Array(count);
  const parents = [-1];
  const frames = [tree.frame[0]];
  const selfs = [tree.self[0]];
  const samples = [tree.samples[0]];
  const recorded = [0];
  const children: number[][] = [[]];
  const known = new Map<number, number>();
  for (let node = 1; node < count; node++) {
    const above = folded[tree.parent[node]];
    let target = above;
    if (tree.frames[tree.frame[node]].own) {
      const key = above * tree.frames.length + tree.frame[node];
      target = known.get(key) ?? parents.length;
      if (target === parents.length) {
        known.set(key, target);
        parents.push(above);
        frames.push(tree.frame[node]);
        selfs.push(0);
        samples.push(0);
        recorded.push(node);
        children.push([]);
        children[above].push(target);
      }
    }
    folded[node] = target;
    selfs[target] += tree.self[node];
    samples[target] += tree.samples[node];
  }
  // Merging may have put a node far behind its parent's other children: number all again in preorder.
  const order: number[] = [];
  const stack = [0];
  while (stack.length) {
    const node = stack.pop()!;
    order.push(node);
    for (let index = children[node].length - 1; index >= 0; index--) stack.push(children[node][index]);
  }
  const position = new Int32Array(order.length);
  order.forEach((node, index) => (position[node] = index));
  return complete(
    tree.frames,
    Int32Array.from(order, (node) => (node ? position[parents[node]] : -1)),
    Int32Array.from(order, (node) => frames[node]),
    Float64Array.from(order, (node) => selfs[node]),
    Int32Array.from(order, (node) => samples[node]),
    Int32Array.from(order, (node) => recorded[node]),
    folded.map((node) => position[node]),
  );
}

/** The frames from the root down to `node`. */
export function pathTo(tree: FlameTree, node: number): number[] {
  const path: number[] = [];
  for (let at = node; at >= 0; at = tree.parent[at]) path.push(at);
  return path.reverse();
}

/** Whether `node` is `ancestor` or below it. */
export function isWithin(tree: FlameTree, node: number, ancestor: number): boolean {
  return node >= ancestor && node < tree.end[ancestor];
}

/** `shop/orders.py:41`, or nothing for a frame without a file. */
export function location(frame: Frame): string {
  if (!frame.file) return "";
  return frame.line ? `${frame.file}:${frame.line}` : frame.file;
}

function complete(
  frames: Frame[],
  parent: Int32Array,
  frame: Int32Array,
  self: Float64Array,
  samples: Int32Array,
  recorded: Int32Array,
  shownAs: Int32Array,
): FlameTree {
  const count = parent.length;
  const total = Float64Array.from(self);
  const end = Int32Array.from(parent, (_, node) => node + 1);
  for (let node = count - 1; node > 0; node--) {
    total[parent[node]] += total[node];
    end[parent[node]] = Math.max(end[parent[node]], end[node]);
  }
  const depth = new Int32Array(count);
  const start = new Float64Array(count);
  const next = new Float64Array(count);
  let maxDepth = 0;
  for (let node = 1; node < count; node++) {
    const above = parent[node];
    depth[node] = depth[above] + 1;
    maxDepth = Math.max(maxDepth, depth[node]);
    start[node] = next[node] = next[above];
    next[above] += total[node];
  }
  return { frames, parent, frame, self, samples, total, start, depth, end, maxDepth, recorded, shownAs };
}
