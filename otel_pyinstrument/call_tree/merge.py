"""One tree out of many requests."""

from __future__ import annotations

from collections.abc import Iterable

from otel_pyinstrument.call_tree.growing_tree import GrowingTree
from otel_pyinstrument.call_tree.tree import CallTree


def merge(trees: Iterable[CallTree]) -> CallTree:
    """Add the trees up: nodes with the same frames along their path become one, times and samples are summed.

    The result does not depend on the order of `trees`: children stand heaviest first (inclusive time, then
    frame). It has no time order. No trees give a lone root. The trees are consumed one by one.
    """
    merged = GrowingTree()
    for tree in trees:
        index_of_frame = [merged.frame_index(frame) for frame in tree.frames]
        frame_indices = [index_of_frame[frame] for frame in tree.frame]
        merged.add_tree(tree.parent, frame_indices, tree.self_us, tree.samples)
    return merged.in_preorder(heaviest_first=True)
