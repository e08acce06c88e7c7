"""The calls around a request: server, middleware and thread start, which every sample has in common."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import CodeType

from otel_pyinstrument.call_tree import CallTree, Frame


def calling_codes() -> list[CodeType]:
    """The functions running on this thread, outermost first. Code objects: frames would keep locals alive."""
    codes: list[CodeType] = []
    frame = inspect.currentframe()
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    codes.reverse()
    return codes


def shared_calls(start: Sequence[CodeType], end: Sequence[CodeType]) -> Sequence[CodeType]:
    """The calls that were running at the start and still are at the end, outermost first.

    Unlike what the samples happen to share, this is the same for every request of an endpoint, so their
    trees can be merged and compared.
    """
    count = 0
    for before, after in zip(start, end, strict=False):
        if before is not after:
            break
        count += 1
    return start[:count]


def without_base(tree: CallTree, base: Sequence[Frame]) -> CallTree:
    """`tree` without the calls of `base` (outermost first), as far as all its samples are below them.

    Frames are compared by file and line: a code object does not know the class that a sample shows.
    """
    cut = min(_stem_length(tree), _matching_length(tree, base))
    if not cut:
        return tree
    kept = range(cut + 1, tree.node_count)
    used = dict.fromkeys([tree.frame[0], *(tree.frame[node] for node in kept)])
    renumbered = {index: position for position, index in enumerate(used)}
    return CallTree(
        frames=[tree.frames[index] for index in used],
        parent=[-1, *(max(tree.parent[node] - cut, 0) for node in kept)],
        frame=[renumbered[tree.frame[node]] for node in (0, *kept)],
        self_us=[tree.self_us[node] for node in (0, *kept)],
        samples=[tree.samples[node] for node in (0, *kept)],
    )


def _stem_length(tree: CallTree) -> int:
    """How many nodes below the root are the only child of their parent and have no samples of their own."""
    # In preorder a parent that is not the node before belongs to a second child.
    fork = min((above for before, above in enumerate(tree.parent[1:]) if above != before), default=None)
    length = tree.node_count - 1 if fork is None else fork
    sampled = (node for node in range(1, length + 1) if tree.samples[node] or tree.self_us[node])
    return next(sampled, length + 1) - 1


def _matching_length(tree: CallTree, base: Sequence[Frame]) -> int:
    length = 0
    for node, expected in zip(range(1, tree.node_count), base, strict=False):
        frame = tree.frames[tree.frame[node]]
        if (frame.file, frame.line) != (expected.file, expected.line):
            break
        length += 1
    return length
