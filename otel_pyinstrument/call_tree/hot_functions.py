"""Which functions took the time, and how to say it in ten lines."""

from __future__ import annotations

from typing import NamedTuple

from otel_pyinstrument.call_tree.frame import ROOT, Frame
from otel_pyinstrument.call_tree.text import bounded_name, bounded_path
from otel_pyinstrument.call_tree.tree import CallTree

_SUMMARY_LINES = 10
_SUMMARY_FUNCTION_BYTES = 64
_SUMMARY_FILE_BYTES = 60


class HotFunction(NamedTuple):
    """A function with the time charged to it. `total_us` counts a recursive function once."""

    frame: Frame
    self_us: int
    total_us: int
    samples: int


def hot_functions(tree: CallTree, *, limit: int = 10) -> list[HotFunction]:
    """The functions that the most time is charged to, heaviest first, then by frame.

    Each node's self time and samples are charged to the nearest own-code node on the way to the root, the
    node itself included, and to the node itself when there is none. Who is charged with no time is left out,
    and so is the root: it is no function.
    """
    frames = [tree.frames[index] for index in tree.frame]
    totals = _total_us_by_frame(tree, frames)
    charged: dict[Frame, list[int]] = {}
    nearest_own: list[Frame | None] = []
    for node, frame in enumerate(frames):
        own = frame if frame.own_code else nearest_own[tree.parent[node]] if node else None
        nearest_own.append(own)
        sums = charged.setdefault(own or frame, [0, 0])
        sums[0] += tree.self_us[node]
        sums[1] += tree.samples[node]
    hot = [
        HotFunction(frame, self_us, totals[frame], samples)
        for frame, (self_us, samples) in charged.items()
        if self_us and frame != ROOT
    ]
    hot.sort(key=lambda function: (-function.self_us, function.frame))
    return hot[:limit]


def _total_us_by_frame(tree: CallTree, frames: list[Frame]) -> dict[Frame, int]:
    """Inclusive time per frame; only the outermost of nested calls of one function counts."""
    totals = dict.fromkeys(frames, 0)
    active = dict.fromkeys(frames, 0)
    path: list[int] = []
    for node, total in enumerate(tree.total_us()):
        while path and path[-1] != tree.parent[node]:
            active[frames[path.pop()]] -= 1
        frame = frames[node]
        if not active[frame]:
            totals[frame] += total
        active[frame] += 1
        path.append(node)
    return totals


def summary(tree: CallTree) -> list[str]:
    """At most 10 lines such as `34% load_orders shop/orders.py:41`, together at most 1,500 bytes of UTF-8.

    Percent of the whole tree's time, charged as in `hot_functions`; what rounds to 0% is left out.
    """
    duration_us = tree.duration_us
    lines: list[str] = []
    for function in hot_functions(tree, limit=_SUMMARY_LINES):
        percent = (200 * function.self_us + duration_us) // (2 * duration_us)
        if not percent:
            break
        frame = function.frame
        words = [f"{percent}%", bounded_name(frame.function, _SUMMARY_FUNCTION_BYTES)]
        if frame.file:
            place = bounded_path(frame.file, _SUMMARY_FILE_BYTES)
            words.append(f"{place}:{frame.line}" if frame.line else place)
        lines.append(" ".join(words))
    return lines
