"""A call tree as the API shows it: nested to a limit, or whole as flat columns."""

from __future__ import annotations

from heapq import nsmallest

from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

from otel_pyinstrument.call_tree import CallTree

# JSON readers of common languages stop at nesting 64 to 1,000; a level of calls costs two.
MAX_NESTED_DEPTH = 60
MAX_NESTED_CALLS = 5_000


class Call(TypedDict):
    """One node of the nested tree. `call_id` counts nodes in preorder and is what `?node=` takes.

    Durations are seconds. `calls_count` is the number of samples that saw this call on the stack.
    `children_omitted` counts direct children that the limits cut off.
    """

    call_id: int
    parent_call_id: int | None
    depth: int
    call_order: int
    function: str
    module: str
    file: str
    line: int
    duration: float
    self_duration: float
    calls_count: int
    own_code: bool
    children: list[Call]
    children_omitted: int


class FunctionColumns(TypedDict):
    """Distinct functions, one entry each in every column."""

    function: list[str]
    module: list[str]
    file: list[str]
    line: list[int]
    own_code: list[bool]


class CallColumns(TypedDict):
    """Calls in preorder, one entry each in every column; `function_index` counts in the function columns."""

    call_id: list[int]
    parent_call_id: list[int | None]
    depth: list[int]
    function_index: list[int]
    duration: list[float]
    self_duration: list[float]
    calls_count: list[int]


class FlatCalls(TypedDict):
    """The whole tree without nesting, whatever its depth."""

    functions: FunctionColumns
    calls: CallColumns


def nested_calls(
    tree: CallTree, node: int = 0, *, max_depth: int = MAX_NESTED_DEPTH, max_calls: int = MAX_NESTED_CALLS
) -> list[Call]:
    """The tree from `node` down: at most `max_depth` levels, and the `max_calls` calls that took longest."""
    totals_us = tree.total_us()
    depths = tree.depth()
    samples = _inclusive(tree.samples, tree.parent)
    subtree = range(node, tree.subtree_end(node))
    near = [call for call in subtree if depths[call] - depths[node] < max_depth]
    # A parent takes at least as long as its child and stands before it: the longest ones form a tree.
    chosen = sorted(nsmallest(max_calls, near, key=lambda call: (-totals_us[call], call)))
    calls: dict[int, Call] = {}
    for call in chosen:
        frame = tree.frames[tree.frame[call]]
        calls[call] = {
            "call_id": call,
            "parent_call_id": _parent(tree, call),
            "depth": depths[call],
            "call_order": call,
            "function": frame.function,
            "module": frame.module,
            "file": frame.file,
            "line": frame.line,
            "duration": totals_us[call] / 1e6,
            "self_duration": tree.self_us[call] / 1e6,
            "calls_count": samples[call],
            "own_code": frame.own_code,
            "children": [],
            "children_omitted": 0,
        }
    for call in subtree[1:]:
        above = calls.get(tree.parent[call])
        if above is None:
            continue
        if call in calls:
            above["children"].append(calls[call])
        else:
            above["children_omitted"] += 1
    return [calls[node]]


def flat_calls(tree: CallTree, node: int = 0) -> FlatCalls:
    """The tree from `node` downwards as columns; `call_id` stays what it is in the whole tree."""
    totals_us = tree.total_us()
    depths = tree.depth()
    samples = _inclusive(tree.samples, tree.parent)
    part = slice(node, tree.subtree_end(node))
    return {
        "functions": {
            "function": [frame.function for frame in tree.frames],
            "module": [frame.module for frame in tree.frames],
            "file": [frame.file for frame in tree.frames],
            "line": [frame.line for frame in tree.frames],
            "own_code": [frame.own_code for frame in tree.frames],
        },
        "calls": {
            "call_id": list(range(part.start, part.stop)),
            "parent_call_id": [_parent(tree, call) for call in range(part.start, part.stop)],
            "depth": depths[part],
            "function_index": tree.frame[part],
            "duration": [total_us / 1e6 for total_us in totals_us[part]],
            "self_duration": [self_us / 1e6 for self_us in tree.self_us[part]],
            "calls_count": samples[part],
        },
    }


def _parent(tree: CallTree, call: int) -> int | None:
    return tree.parent[call] if call else None


def _inclusive(counts: list[int], parents: list[int]) -> list[int]:
    """Per node the sum over its subtree; in preorder every child stands behind its parent."""
    sums = counts.copy()
    for node in range(len(parents) - 1, 0, -1):
        sums[parents[node]] += sums[node]
    return sums
