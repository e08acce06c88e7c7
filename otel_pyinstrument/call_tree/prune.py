"""Makes a tree smaller and keeps every sum."""

from __future__ import annotations

from otel_pyinstrument.call_tree.frame import OTHER, Frame
from otel_pyinstrument.call_tree.tree import CallTree


def prune(tree: CallTree, *, max_nodes: int) -> CallTree:
    """The same tree with at most `max_nodes` nodes; the smallest subtrees by inclusive time are folded.

    The folded children of a node become one `[other]` leaf, which counts as a node, where the first of
    them stood. So the inclusive time and samples of every kept node stay what they were. A child is never
    kept without its parent, and a single leaf is never replaced by an `[other]` of the same size. Time
    order survives: what the folded nodes took goes to their `[other]`. With `max_nodes=1` the root takes
    everything. A tree that is small enough is returned as it is.
    """
    if max_nodes < 1:
        raise ValueError(f"max_nodes is {max_nodes}: the root alone needs 1")
    if tree.node_count <= max_nodes:
        return tree
    if max_nodes == 1:
        return _fold(tree, [not node for node in range(tree.node_count)], with_other=False)
    return _fold(tree, _kept_nodes(tree, max_nodes), with_other=True)


def fold_below(tree: CallTree, *, max_depth: int) -> CallTree:
    """The same tree with all from `max_depth` (1 or more) on in `[other]` leaves, without unused frames."""
    return _fold(tree, [depth < max_depth for depth in tree.depth()], with_other=True)


def _kept_nodes(tree: CallTree, max_nodes: int) -> list[bool]:
    """Choose by inclusive time, and by position on ties, so that an ancestor always comes first.

    There is room for the root and its `[other]`: `max_nodes` is at least 2, and the tree is larger.
    """
    parent = tree.parent
    totals = tree.total_us()
    folded_children = [0] * tree.node_count
    for above in parent[1:]:
        folded_children[above] += 1
    keep = [False] * tree.node_count
    keep[0] = True
    size = 1 + bool(folded_children[0])
    earlier_other = {
        node
        for node, frame in enumerate(tree.frame)
        if tree.frames[frame] == OTHER and not folded_children[node]
    }
    full = False
    for node in sorted(range(1, tree.node_count), key=lambda node: -totals[node]):
        if node in earlier_other:
            continue
        # The node itself, an [other] for its own children, and one less if its parent's [other] is now empty.
        growth = 1 + bool(folded_children[node]) - (folded_children[parent[node]] == 1)
        full = full or size + growth > max_nodes
        if full and (growth > 0 or not keep[parent[node]]):
            continue
        size += growth
        keep[node] = True
        folded_children[parent[node]] -= 1
    return keep


def _fold(tree: CallTree, keep: list[bool], *, with_other: bool) -> CallTree:
    pruned = CallTree([], [], [], [], [], None if tree.order is None else [])
    frame_indices: dict[Frame, int] = {}
    target = [0] * tree.node_count
    other_of: dict[int, int] = {}

    def append(parent: int, frame: Frame) -> int:
        pruned.parent.append(parent)
        pruned.frame.append(frame_indices.setdefault(frame, len(frame_indices)))
        pruned.self_us.append(0)
        pruned.samples.append(0)
        return len(pruned.parent) - 1

    for node, above in enumerate(tree.parent):
        if keep[node]:
            target[node] = append(target[above] if node else -1, tree.frames[tree.frame[node]])
        elif not keep[above] or not with_other:
            target[node] = target[above]
        else:
            if above not in other_of:
                other_of[above] = append(target[above], OTHER)
            target[node] = other_of[above]
        pruned.self_us[target[node]] += tree.self_us[node]
        pruned.samples[target[node]] += tree.samples[node]
    pruned.frames.extend(frame_indices)
    if tree.order is not None:
        pruned.order = _fold_order(tree.order, target)
    return pruned


def _fold_order(order: list[tuple[int, int]], target: list[int]) -> list[tuple[int, int]]:
    folded: list[tuple[int, int]] = []
    for node, duration_us in order:
        if folded and folded[-1][0] == target[node]:
            folded[-1] = (target[node], folded[-1][1] + duration_us)
        else:
            folded.append((target[node], duration_us))
    return folded
