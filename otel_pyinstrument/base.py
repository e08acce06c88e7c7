"""The calls around a request: server, middleware and thread start, which every sample has in common."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
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


def without_base(tree: CallTree, base: Iterable[Frame]) -> CallTree:
    """`tree` without the calls of `base` (outermost first), as far as all its samples are below them.

    Frames are compared by file and line: a code object does not know the class that a sample shows.
    """
    cut = _shared_length(tree, base)
    if not cut:
        return tree
    first = cut + 1
    frame = [tree.frame[0], *tree.frame[first:]]
    used = dict.fromkeys(frame)
    renumbered = {index: position for position, index in enumerate(used)}
    return CallTree(
        frames=[tree.frames[index] for index in used],
        parent=[-1, *[above - cut if above > cut else 0 for above in tree.parent[first:]]],
        frame=[renumbered[index] for index in frame],
        self_us=[tree.self_us[0], *tree.self_us[first:]],
        samples=[tree.samples[0], *tree.samples[first:]],
    )


def _shared_length(tree: CallTree, base: Iterable[Frame]) -> int:
    """How many nodes below the root are of `base`, the only child of their parent and without own samples."""
    length = 0
    for node, expected in zip(range(1, tree.node_count), base, strict=False):
        frame = tree.frames[tree.frame[node]]
        if frame.line != expected.line or frame.file != expected.file:
            break
        if tree.parent[node] != length or tree.samples[node] or tree.self_us[node]:
            break
        length = node
    # A parent further up than the last of them has a second child.
    return min(tree.parent[length + 1 :], default=length) if length else 0
