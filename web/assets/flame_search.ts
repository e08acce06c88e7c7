// Which frames match a text, and how much of the request they cover.
import type { FlameTree } from "./flame_tree";

export interface Matches {
  /** 1 for each matching node; all 0 when nothing is searched. */
  isMatch: Uint8Array;
  /** Matching nodes in preorder. */
  nodes: number[];
  /** Microseconds under matching frames. A match inside a match counts once; zooming changes nothing. */
  covered: number;
}

/** Case-insensitive substring of function name or file, never a pattern: `foo(` is just text. */
export function search(tree: FlameTree, text: string): Matches {
  const isMatch = new Uint8Array(tree.parent.length);
  const nodes: number[] = [];
  const wanted = text.trim().toLowerCase();
  if (!wanted) return { isMatch, nodes, covered: 0 };
  const frameMatches = tree.frames.map(
    (frame) => frame.name.toLowerCase().includes(wanted) || frame.file.toLowerCase().includes(wanted),
  );
  let covered = 0;
  let coveredUpTo = 0;
  for (let node = 0; node < isMatch.length; node++) {
    if (!frameMatches[tree.frame[node]]) continue;
    isMatch[node] = 1;
    nodes.push(node);
    if (node >= coveredUpTo) {
      covered += tree.total[node];
      coveredUpTo = tree.end[node];
    }
  }
  return { isMatch, nodes, covered };
}

/** The match after (1) or before (-1) `node`, around the end; -1 when there is none. */
export function nextMatch(matches: Matches, node: number, direction: -1 | 1): number {
  const { nodes } = matches;
  if (!nodes.length) return -1;
  if (direction > 0) return nodes.find((other) => other > node) ?? nodes[0];
  return nodes.findLast((other) => other < node) ?? nodes[nodes.length - 1];
}

/** All of one function, wherever it is called: time (recursion counted once) and number of places. */
export function everywhere(tree: FlameTree, frame: number): { total: number; places: number } {
  let total = 0;
  let places = 0;
  let countedUpTo = 0;
  for (let node = 0; node < tree.parent.length; node++) {
    if (tree.frame[node] !== frame) continue;
    places++;
    if (node >= countedUpTo) {
      total += tree.total[node];
      countedUpTo = tree.end[node];
    }
  }
  return { total, places };
}
