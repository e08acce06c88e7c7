"""Which functions took the time, and how to say it in ten lines."""

from __future__ import annotations

from collections.abc import Sequence
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
    functions = _functions(tree)
    self_us, samples = [0] * len(tree.frames), [0] * len(tree.frames)
    for function, node_us, node_samples in zip(
        _charged(tree, functions), tree.self_us, tree.samples, strict=True
    ):
        self_us[function] += node_us
        samples[function] += node_samples
    totals = _total_us_by_function(tree, functions)
    hot = [
        HotFunction(tree.frames[function], time_us, totals[function], samples[function])
        for function, time_us in enumerate(self_us)
        if time_us and tree.frames[function] != ROOT
    ]
    hot.sort(key=lambda function: (-function.self_us, function.frame))
    return hot[:limit]


def _charged(tree: CallTree, functions: Sequence[int]) -> list[int]:
    """Per node whose its own time is, of `functions`: one position in `frames` per node."""
    own_code = [frame.own_code for frame in tree.frames]
    charged: list[int] = []
    for function, above in zip(functions, tree.parent, strict=True):
        if not own_code[function] and above >= 0 and own_code[charged[above]]:
            function = charged[above]
        charged.append(function)
    return charged


def _functions(tree: CallTree) -> list[int]:
    """Per node the position of its frame, of equal frames the first: numbers count faster than names."""
    first: dict[Frame, int] = {}
    function_of = [first.setdefault(frame, index) for index, frame in enumerate(tree.frames)]
    return [function_of[index] for index in tree.frame]


def _total_us_by_function(tree: CallTree, functions: list[int]) -> list[int]:
    """Inclusive time per function; only the outermost of nested calls of one function counts."""
    parent = tree.parent
    total_us, ends = tree.self_us.copy(), list(range(1, len(parent) + 1))
    for node in range(len(parent) - 1, 0, -1):
        above = parent[node]
        total_us[above] += total_us[node]
        if ends[node] > ends[above]:
            ends[above] = ends[node]
    totals, counted_until = [0] * len(tree.frames), [0] * len(tree.frames)
    for node, (function, total, end) in enumerate(zip(functions, total_us, ends, strict=True)):
        if node >= counted_until[function]:
            totals[function] += total
            counted_until[function] = end
    return totals


def summary(tree: CallTree) -> list[str]:
    """At most 10 lines such as `34% load_orders shop/orders.py:41`, together at most 1,500 bytes of UTF-8.

    Percent of the whole tree's time, charged as in `hot_functions`; what rounds to 0% is left out.
    """
    duration_us = tree.duration_us
    lines: list[str] = []
    for frame, self_us in _heaviest(tree)[:_SUMMARY_LINES]:
        percent = (200 * self_us + duration_us) // (2 * duration_us)
        if not percent:
            break
        words = [f"{percent}%", bounded_name(frame.function, _SUMMARY_FUNCTION_BYTES)]
        if frame.file:
            place = bounded_path(frame.file, _SUMMARY_FILE_BYTES)
            words.append(f"{place}:{frame.line}" if frame.line else place)
        lines.append(" ".join(words))
    return lines


def _heaviest(tree: CallTree) -> list[tuple[Frame, int]]:
    """What `hot_functions` finds, without the figures that a summary does not show."""
    charged_us = [0] * len(tree.frames)
    for index, node_us in zip(_charged(tree, tree.frame), tree.self_us, strict=True):
        charged_us[index] += node_us
    us_of_frame: dict[Frame, int] = {}
    for index, us in enumerate(charged_us):
        if us:
            frame = tree.frames[index]
            us_of_frame[frame] = us_of_frame.get(frame, 0) + us
    us_of_frame.pop(ROOT, None)
    return sorted(us_of_frame.items(), key=lambda entry: (-entry[1], entry[0]))
