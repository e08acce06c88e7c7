"""Puts what ran elsewhere under the call that waited for it, so that the sum stays the wall time."""

from __future__ import annotations

from collections.abc import Sequence

from otel_pyinstrument.call_tree import CallTree, Frame
from otel_pyinstrument.call_tree.growing_tree import GrowingTree

AWAIT = Frame("[await]", "", 0, False)
"""The frame of a leaf: here the request was suspended, or waited for another of its own threads."""


def graft(tree: CallTree, hops: Sequence[tuple[Sequence[Frame], CallTree]]) -> CallTree:
    """`tree` with each hop's tree below the path of frames that waited for it.

    A hop's time comes out of the nearest `[await]` leaf: below its path, else below the closest call
    around it. What hops have is theirs already (`SharedWait`); where they have more than was waited all the
    same, because the request's part was cut off before theirs, they share that time in proportion.
    What nobody waited for is left out. The total is unchanged.
    """
    if not hops:
        return tree
    grown = GrowingTree()
    grown.add_tree(tree.parent, _frame_indices(grown, tree), tree.self_us, tree.samples)
    await_index = grown.frame_index(AWAIT)
    funded: dict[int, list[tuple[int, CallTree]]] = {}
    for path, hop in hops:
        node = 0
        ancestors = [0]
        for frame in path:
            node = grown.child(node, grown.frame_index(frame))
            ancestors.append(node)
        leaf = _nearest_await(grown, ancestors, await_index)
        if leaf is not None:
            funded.setdefault(leaf, []).append((node, hop))
    for leaf, parts in funded.items():
        _move_time(grown, leaf, parts)
    return _without_empty_leaves(grown.in_preorder())


def _nearest_await(grown: GrowingTree, ancestors: list[int], await_index: int) -> int | None:
    """The `[await]` leaf with time that is the child of the innermost of `ancestors`."""
    waits = {
        grown.parent[node]: node
        for node, frame in enumerate(grown.frame)
        if frame == await_index and grown.self_us[node]
    }
    return next((waits[node] for node in reversed(ancestors) if node in waits), None)


def _move_time(grown: GrowingTree, leaf: int, parts: Sequence[tuple[int, CallTree]]) -> None:
    waited_us = grown.self_us[leaf]
    needed_us = sum(hop.duration_us for _, hop in parts)
    granted_us = min(waited_us, needed_us)
    grown.self_us[leaf] = waited_us - granted_us
    grown.samples[leaf] = grown.samples[leaf] * (waited_us - granted_us) // waited_us
    taken = given = 0
    for node, hop in parts:
        below = [node] * hop.node_count
        indices = _frame_indices(grown, hop)
        for position in range(hop.node_count):
            if position:
                below[position] = grown.child(below[hop.parent[position]], indices[position])
            # Rounded by the running total, so that the parts sum to what was granted.
            taken += hop.self_us[position]
            share = taken * granted_us // needed_us if needed_us else 0
            grown.self_us[below[position]] += share - given
            given = share
            grown.samples[below[position]] += hop.samples[position]


def _frame_indices(grown: GrowingTree, tree: CallTree) -> list[int]:
    index_of = [grown.frame_index(frame) for frame in tree.frames]
    return [index_of[frame] for frame in tree.frame]


def _without_empty_leaves(tree: CallTree) -> CallTree:
    """Without the nodes that hold neither time nor samples, themselves and below."""
    alive = [bool(us or samples) for us, samples in zip(tree.self_us, tree.samples, strict=True)]
    alive[0] = True
    for node in range(tree.node_count - 1, 0, -1):
        alive[tree.parent[node]] |= alive[node]
    if all(alive):
        return tree
    kept = GrowingTree()
    place = [0] * tree.node_count
    kept.self_us[0], kept.samples[0] = tree.self_us[0], tree.samples[0]
    for node in range(1, tree.node_count):
        if alive[node]:
            frame = kept.frame_index(tree.frames[tree.frame[node]])
            place[node] = here = kept.child(place[tree.parent[node]], frame)
            kept.self_us[here] += tree.self_us[node]
            kept.samples[here] += tree.samples[node]
    return kept.in_preorder()
