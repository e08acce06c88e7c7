"""The bytes of a request body as parsed records; one that is nested too deeply takes no other with it.

Python's reader of JSON gives up a whole body when one part of it is nested deeper than its stack. So such a
body is cut at its records, which needs no recursion, and each is read on its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from profile_store.plain_json.problems import BadRecord, wrong

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_PARTS = 400_000
"""Objects and arrays in one body: each takes 64 to 230 bytes of memory, for as little as 2 bytes of text."""

MAX_SEPARATORS = 2_000_000
"""Colons and commas in one body: as many names and values at most, of up to 90 bytes of memory each. Those in
texts count too."""

MAX_RECORDS = 1_000
MAX_LISTED = 10_000
"""Items in the list of records, before the body is refused as a whole. Each of those beyond `MAX_RECORDS` has
a refusal of its own, which takes hundreds of bytes of memory, for as little as 2 bytes of text."""

MAX_NESTED_CALLS = 200
"""Calls within calls: each takes two levels of JSON, and readers of JSON end at some hundred levels."""

TOO_DEEP = (
    f"function_calls are nested deeper than {MAX_NESTED_CALLS} calls: "
    "send them side by side with call_id and parent_call_id, or leave the deepest out"
)
_UNREADABLE = (
    "the record is nested too deeply to be read: "
    "send function_calls side by side with call_id and parent_call_id"
)

# Longer numbers are no measurements, and Python takes long to read them.
_MAX_DIGITS = 40

# A text that does not end is one token as well: to look for others in it would take the square of its length.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}:,]', re.DOTALL)
_OPENING = (b"[", b"{")
_CLOSING = (b"]", b"}")


class BadBody(Exception):
    """Nothing of the body can be stored: `reason` is not_json or too_large. The message has the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sent:
    """The records of one body in their order; one that cannot even be read is the reason why.

    `is_single`: the body was one record, not a list of records.
    """

    records: Sequence[dict[str, Any] | BadRecord]
    is_single: bool

    @property
    def project_keys(self) -> set[str]:
        """The keys that records name themselves."""
        named = (record.get("project_key") for record in self.records if isinstance(record, dict))
        return {key for key in named if isinstance(key, str)}


def read(body: bytes) -> Sent:
    """The records of a body: one object, a list of objects, or `{"records": [...]}`.

    Raises:
        BadBody: and nothing else, for any bytes whatsoever.
    """
    if len(body) > MAX_BODY_BYTES:
        raise BadBody("too_large", f"the body has {len(body)} bytes: send at most {MAX_BODY_BYTES} at once")
    if body.count(b"{") + body.count(b"[") > MAX_PARTS:
        raise BadBody(
            "too_large", f"the body has more than {MAX_PARTS} objects and arrays: send fewer records"
        )
    if body.count(b":") + body.count(b",") > MAX_SEPARATORS:
        raise BadBody(
            "too_large", f"the body has more than {MAX_SEPARATORS} colons and commas: send fewer records"
        )
    try:
        document = _loads(body)
    except RecursionError:
        return _read_one_by_one(body)
    except ValueError as problem:
        raise _not_json(problem) from None
    return _sent(document)


def _sent(document: object) -> Sent:
    match document:
        case list():
            return Sent(_as_records(cast("list[object]", document)), is_single=False)
        case dict():
            record = cast("dict[str, Any]", document)
            if isinstance(record.get("records"), list):
                return Sent(_as_records(record["records"]), is_single=False)
            return Sent([record], is_single=True)
        case _:
            raise BadBody("not_json", "the body is no record: send an object, or a list of objects")


def _as_records(items: Sequence[object]) -> list[dict[str, Any] | BadRecord]:
    if len(items) > MAX_LISTED:
        raise BadBody("too_large", f"there are {len(items)} records: send at most {MAX_RECORDS} at once")
    return [_as_record(place, item) for place, item in enumerate(items)]


def _as_record(place: int, item: object) -> dict[str, Any] | BadRecord:
    if place >= MAX_RECORDS:
        return BadRecord("too_large", f"there are more than {MAX_RECORDS} records: send the rest separately")
    if isinstance(item, dict):
        return cast("dict[str, Any]", item)
    return item if isinstance(item, BadRecord) else wrong("record", item, "send an object")


def _read_one_by_one(body: bytes) -> Sent:
    """The same for a body of which a part is nested too deeply."""
    start = body.find(b"[")
    if body.lstrip()[:1] == b"{":
        span = _value_of_records(body)
        if span is None:
            return Sent([BadRecord("call_stack_too_deep", _UNREADABLE)], is_single=True)
        start = span
    items: list[object] = []
    for begin, end in _elements(body, start):
        try:
            items.append(_loads(body[begin:end]))
        except RecursionError:
            items.append(BadRecord("call_stack_too_deep", _UNREADABLE))
        except ValueError as problem:
            raise _not_json(problem) from None
    return Sent(_as_records(items), is_single=False)


def _value_of_records(body: bytes) -> int | None:
    """Where the array of the member `records` of the outermost object begins; None without one."""
    depth, name = 0, b""
    for token in _TOKEN.finditer(body):
        text = token[0]
        if depth == 1 and text == b":" and name == b'"records"':
            rest = body[token.end() :].lstrip()
            return len(body) - len(rest) if rest[:1] == b"[" else None
        if text in _OPENING:
            depth += 1
        elif text in _CLOSING:
            depth -= 1
        elif depth == 1 and text[:1] == b'"':
            name = text
    return None


def _elements(body: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each element of the array at `start`, whatever lies in them.

    Raises:
        BadBody: the array does not end.
    """
    depth, begin = 0, start + 1
    for token in _TOKEN.finditer(body, start):
        text = token[0]
        if text in _OPENING:
            depth += 1
        elif text in _CLOSING:
            depth -= 1
        if (depth == 1 and text == b",") or depth == 0:
            if depth or body[begin : token.start()].strip():
                yield begin, token.start()
            begin = token.end()
        if depth == 0:
            return
    raise BadBody("not_json", "the body is no JSON: an array does not end")


def _loads(body: bytes) -> object:
    return json.loads(body.decode("utf-8"), parse_int=_number, parse_constant=_constant)


def _number(digits: str) -> int | str:
    """As text when it is absurd: that is of the wrong type for its field, but harms no other record."""
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _constant(name: str) -> str:
    """NaN and the infinities are no JSON, but common: the same."""
    return name


def _not_json(problem: ValueError) -> BadBody:
    if isinstance(problem, json.JSONDecodeError):
        return BadBody("not_json", f"the body is no JSON: {problem.msg} at character {problem.pos}")
    return BadBody("not_json", "the body is no JSON: it is not encoded in UTF-8")
