"""`function_calls` to a call tree: nested by `children`, or side by side with `parent_call_id`, or both.

Senders tell how long a call took with all calls below it. Its self time is what its direct calls leave of
that, and nothing when they took longer (they ran side by side, or were rounded up): then the call counts as
long as they do. What the outermost calls leave of the request is the self time of the root. Calls of one
function at one place of the tree become one node, as in every profile. The same holds for `calls_count`, the
samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from otel_pyinstrument.call_tree import DEFAULT_LIMITS, ROOT, CallTree, Frame
from otel_pyinstrument.call_tree.growing_tree import GrowingTree
from profile_store.plain_json.body import MAX_NESTED_CALLS, TOO_DEEP
from profile_store.plain_json.fields import Fields
from profile_store.plain_json.problems import BadRecord, shown, wrong

MAX_CALLS = 50_000
MAX_DEPTH = 2_000
"""Of calls that are sent side by side."""

_MAX_NAME_CHARACTERS = 2_048
_MAX_LINE = 2**31 - 1
_MAX_SAMPLES = 10**9

_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages|lib/python\d[.\d]*)/|^<")


class _Call:
    """One call as it was sent, and the calls that were found below it."""

    __slots__ = ("children", "depth", "duration_us", "field", "frame", "samples")

    def __init__(self, field: str, frame: Frame, duration_us: int, samples: int) -> None:
        self.field = field
        self.frame = frame
        self.duration_us = duration_us
        self.samples = samples
        self.children: list[_Call] = []
        self.depth = 0


def call_tree(record: Fields, duration: float) -> CallTree | None:
    """The tree of a request of `duration` seconds; None without calls.

    Raises:
        BadRecord
    """
    outermost = _linked(_listed(record.array("function_calls", limit=MAX_CALLS)))
    if not outermost:
        return None
    # As our own API shows it: the request itself stands above its calls.
    if len(outermost) == 1 and outermost[0].frame == ROOT:
        duration, outermost = outermost[0].duration_us / 1e6, outermost[0].children
    return _tree(outermost, round(duration * 1e6))


def _listed(calls: Sequence[Any]) -> list[tuple[_Call, Any, Any]]:
    """Every call with its `call_id` and the `parent_call_id` that is to be followed, outermost ones first.

    Without recursion: the depth of what strangers send is theirs to choose.
    """
    listed: list[tuple[_Call, Any, Any]] = []
    pending: list[tuple[Sequence[Any], str, _Call | None]] = [(calls, "function_calls", None)]
    while pending:
        siblings, field, above = pending.pop()
        for place, sent in enumerate(siblings):
            where = f"{field}[{place}]"
            if not isinstance(sent, dict):
                raise wrong(where, sent, "send an object")
            if len(listed) >= MAX_CALLS:
                raise BadRecord(
                    "too_large", f"function_calls has more than {MAX_CALLS} calls: leave the short ones out"
                )
            fields = Fields(cast("dict[str, Any]", sent), f"{where}.")
            call = _call(fields, where)
            if above is not None:
                call.depth = above.depth + 1
                above.children.append(call)
                if call.depth >= MAX_NESTED_CALLS:
                    raise BadRecord("call_stack_too_deep", TOO_DEEP)
            parent_id = fields.raw("parent_call_id") if above is None else None
            listed.append((call, fields.raw("call_id"), parent_id))
            if below := fields.array("children", limit=MAX_CALLS):
                # The path is cut: it is for people, and would grow with the square of the depth.
                pending.append((below, f"{where[-100:]}.children", call))
    return listed


def _call(fields: Fields, where: str) -> _Call:
    function = fields.text("function", "function_name", limit=_MAX_NAME_CHARACTERS)
    if not function:
        raise BadRecord("record_format", f"{where}.function is missing: send the name of the function")
    duration = fields.seconds("duration")
    if duration is None:
        raise BadRecord("record_format", f"{where}.duration is missing: send seconds")
    file = fields.text("file", "file_path", limit=_MAX_NAME_CHARACTERS)
    line = fields.count("line", "line_number", highest=_MAX_LINE) or 0
    own_code = fields.flag("own_code")
    if own_code is None:
        own_code = bool(file) and not _LIBRARY.search(file.replace("\\", "/"))
    samples = fields.count("calls_count", highest=_MAX_SAMPLES) or 0
    return _Call(where, Frame(function, file, line, own_code), round(duration * 1e6), samples)


def _linked(listed: Iterable[tuple[_Call, Any, Any]]) -> list[_Call]:
    """The outermost calls, once every call that names its parent stands below it."""
    listed = list(listed)
    outermost: list[_Call] = []
    by_id: dict[str | int, _Call] = {}
    if any(parent_id is not None for _, _, parent_id in listed):
        for call, call_id, _ in listed:
            if call_id is None:
                continue
            if isinstance(call_id, bool) or not isinstance(call_id, (str, int)):
                raise wrong(f"{call.field}.call_id", call_id, "send text or a whole number")
            if by_id.setdefault(call_id, call) is not call:
                raise wrong(f"{call.field}.call_id", call_id, "send every id once")
    nested = {id(child) for call, _, _ in listed for child in call.children}
    for call, _, parent_id in listed:
        if id(call) in nested:
            continue
        if parent_id is None:
            outermost.append(call)
            continue
        parent = by_id.get(parent_id) if isinstance(parent_id, (str, int)) else None
        if parent is None:
            raise wrong(
                f"{call.field}.parent_call_id", parent_id, "send the call_id of a call of this record"
            )
        parent.children.append(call)
    _require_no_circle(listed, outermost)
    return outermost


def _require_no_circle(listed: Sequence[tuple[_Call, Any, Any]], outermost: Sequence[_Call]) -> None:
    """Every call is below an outermost one, and not too deep below it. Sets the depths."""
    pending = list(outermost)
    reached = 0
    for call in pending:
        call.depth = 0
    while pending:
        call = pending.pop()
        reached += 1
        if call.depth >= MAX_DEPTH:
            raise BadRecord(
                "call_stack_too_deep",
                f"{call.field} is {call.depth} calls deep: send at most {MAX_DEPTH}, leave the deepest out",
            )
        for child in call.children:
            child.depth = call.depth + 1
        pending.extend(call.children)
    if reached < len(listed):
        raise BadRecord("record_format", "function_calls: parent_call_id leads in a circle: send a tree")


def _tree(outermost: Sequence[_Call], duration_us: int) -> CallTree:
    tree = GrowingTree()
    tree.self_us[0] = max(0, duration_us - sum(call.duration_us for call in outermost))
    pending = [(call, 0) for call in reversed(outermost)]
    while pending:
        call, parent = pending.pop()
        node = tree.child(parent, tree.frame_index(call.frame))
        below = sum(child.duration_us for child in call.children)
        tree.self_us[node] += max(0, call.duration_us - below)
        tree.samples[node] += max(0, call.samples - sum(child.samples for child in call.children))
        pending.extend((child, node) for child in reversed(call.children))
    built = tree.in_preorder()
    if built.duration_us > DEFAULT_LIMITS.max_sum:
        raise BadRecord(
            "record_format", f"function_calls take {shown(built.duration_us / 1e6)} s together: send seconds"
        )
    if built.sample_count > DEFAULT_LIMITS.max_sum:
        raise BadRecord(
            "record_format",
            f"function_calls have a calls_count of {shown(built.sample_count)} together: "
            f"send at most {DEFAULT_LIMITS.max_sum}",
        )
    return built
