"""Reads a payload of wire format version 1 that anybody may have written."""

from __future__ import annotations

import json
import zlib
from typing import Literal, NoReturn, cast

from otel_pyinstrument.call_tree.frame import ROOT, Frame
from otel_pyinstrument.call_tree.limits import DEFAULT_LIMITS, FORMAT_VERSION, Limits
from otel_pyinstrument.call_tree.text import bounded_name, bounded_path
from otel_pyinstrument.call_tree.tree import CallTree, first_preorder_violation

InvalidReason = Literal[
    "not_bytes",
    "compressed_too_large",
    "not_zlib",
    "incomplete",
    "trailing_data",
    "json_too_large",
    "not_utf8",
    "not_json",
    "duplicate_key",
    "unsupported_version",
    "missing_field",
    "wrong_type",
    "wrong_length",
    "number_out_of_range",
    "too_many_values",
    "too_many_nodes",
    "too_many_frames",
    "too_deep",
    "index_out_of_range",
    "sum_out_of_range",
    "not_preorder",
    "wrong_root",
    "wrong_order",
]

MAX_INTEGER = 2**53 - 1
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 17
_MAX_BRACKETS = 64
_MAX_OTHER_VALUES = 1_000


class InvalidPayload(ValueError):
    """A payload is refused. `reason` is one of `InvalidReason`; the message names the field."""

    def __init__(self, reason: InvalidReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: InvalidReason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


def decode(payload: bytes, *, limits: Limits = DEFAULT_LIMITS) -> CallTree:
    """The tree in `payload`. Raises `InvalidPayload` and nothing else, whatever the bytes are.

    Time and memory are bounded by `limits`: sizes are checked before anything is parsed, lengths before
    anything is walked. Names come back without control characters and lone surrogates, and not longer
    than `max_text_bytes`. The tree passes `self_check`.
    """
    document = _parse(_decompress(payload, limits), limits)
    version = _member(document, "v", "v")
    if type(version) is not int:
        _refuse("unsupported_version", f"v is no integer, this reader knows {FORMAT_VERSION}")
    if version != FORMAT_VERSION:
        _refuse("unsupported_version", f"v is {version}, this reader knows {FORMAT_VERSION}")
    frames = _frames(document, limits)
    nodes = _object(document, "nodes", "nodes")
    parent = _integers(nodes, "parent", "nodes.parent", lowest=-1)
    if not parent:
        _refuse("wrong_length", "nodes.parent is empty; the root is always there")
    if len(parent) > limits.max_nodes:
        _refuse("too_many_nodes", f"nodes.parent has {len(parent)} entries, the limit is {limits.max_nodes}")
    columns = {name: _integers(nodes, name, f"nodes.{name}") for name in ("frame", "self_us", "samples")}
    for name, values in columns.items():
        _check_length(f"nodes.{name}", values, len(parent))
    _check_indices("nodes.frame", columns["frame"], len(frames))
    for name in ("self_us", "samples"):
        if sum(columns[name]) > limits.max_sum:
            _refuse("sum_out_of_range", f"nodes.{name} sums to more than {limits.max_sum}")
    broken = first_preorder_violation(parent)
    if broken is not None:
        _refuse("not_preorder", f"nodes.parent[{broken}] is {parent[broken]}: not in preorder")
    if frames[columns["frame"][0]] != ROOT:
        _refuse("wrong_root", f"node 0 must be {ROOT.function} with no file, line 0 and own 0")
    tree = CallTree(frames, parent, columns["frame"], columns["self_us"], columns["samples"])
    if tree.node_count > limits.max_depth and max(tree.depth()) > limits.max_depth:
        _refuse("too_deep", f"nodes.parent nests deeper than {limits.max_depth}")
    if "order" in document:
        tree.order = _order(document, tree, limits)
    return tree


def _decompress(payload: bytes, limits: Limits) -> bytes:
    if not isinstance(cast("object", payload), (bytes, bytearray)):
        _refuse("not_bytes", f"the payload is {type(payload).__name__}, not bytes")
    if len(payload) > limits.max_compressed_bytes:
        _refuse(
            "compressed_too_large",
            f"the payload has {len(payload)} bytes, limit {limits.max_compressed_bytes}",
        )
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(payload, limits.max_json_bytes + 1)
    except zlib.error as error:
        _refuse("not_zlib", f"the payload is not zlib: {error}")
    if len(text) > limits.max_json_bytes:
        _refuse("json_too_large", f"the JSON has more than {limits.max_json_bytes} bytes")
    if not stream.eof:
        _refuse("incomplete", "the payload ends before its zlib stream does")
    if stream.unused_data:
        _refuse("trailing_data", f"{len(stream.unused_data)} bytes follow the zlib stream")
    return text


def _parse(text: bytes, limits: Limits) -> dict[str, object]:
    """JSON whose nesting, number of values and length of numbers were bounded before the parser saw it."""
    most_strings = 2 * limits.max_frames + _MAX_OTHER_VALUES
    if text.count(b'"') > 4 * most_strings:  # Twice what the strings need, for quotes within them.
        _refuse("too_many_values", f"the JSON has more than {most_strings} strings")
    # Once escapes are gone every quote opens or closes a string: each second part stands outside.
    skeleton = b"".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    if skeleton.count(b"[") + skeleton.count(b"{") > _MAX_BRACKETS:
        _refuse("too_many_values", f"the JSON has more than {_MAX_BRACKETS} arrays and objects")
    most_values = most_strings + 4 * limits.max_frames + 4 * limits.max_nodes + 2 * limits.max_order_runs
    if skeleton.count(b",") > most_values:
        _refuse("too_many_values", f"the JSON has more than {most_values} values")
    if _LONG_NUMBER in skeleton.translate(_DIGITS_ALIKE):
        _refuse("number_out_of_range", "the JSON holds a number of more than 16 digits")
    try:
        document: object = json.loads(
            text.decode(), object_pairs_hook=_object_of_unique_keys, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        _refuse("not_utf8", f"the JSON is not UTF-8 at byte {error.start}")
    except (json.JSONDecodeError, RecursionError) as error:
        _refuse("not_json", f"the payload is not JSON: {error}")
    if not isinstance(document, dict):
        _refuse("wrong_type", "the JSON is no object")
    return cast("dict[str, object]", document)


def _object_of_unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        _refuse("duplicate_key", "an object of the JSON names a key twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    _refuse("not_json", f"{name} is no JSON number")


def _frames(document: dict[str, object], limits: Limits) -> list[Frame]:
    strings = _array(document, "strings", "strings")
    if not set(map(type, strings)) <= {str}:
        _refuse("wrong_type", "strings holds something else than text")
    table = _object(document, "frames", "frames")
    function = _integers(table, "function", "frames.function")
    if len(function) > limits.max_frames:
        _refuse("too_many_frames", f"frames.function has {len(function)} entries, limit {limits.max_frames}")
    file = _integers(table, "file", "frames.file")
    line = _integers(table, "line", "frames.line")
    own = _integers(table, "own", "frames.own")
    for name, values in (("file", file), ("line", line), ("own", own)):
        _check_length(f"frames.{name}", values, len(function))
    _check_indices("frames.function", function, len(strings))
    _check_indices("frames.file", file, len(strings))
    _check_indices("frames.own", own, 2)
    texts = cast("list[str]", strings)
    functions = {index: bounded_name(texts[index], limits.max_text_bytes) for index in set(function)}
    files = {index: bounded_path(texts[index], limits.max_text_bytes) for index in set(file)}
    return [
        Frame(functions[name], files[path], first_line, bool(flag))
        for name, path, first_line, flag in zip(function, file, line, own, strict=True)
    ]


def _order(document: dict[str, object], tree: CallTree, limits: Limits) -> list[tuple[int, int]]:
    values = _integers(document, "order", "order")
    if len(values) % 2:
        _refuse("wrong_length", f"order has {len(values)} entries; it holds pairs")
    if len(values) > 2 * limits.max_order_runs:
        _refuse("too_many_values", f"order has {len(values) // 2} runs, the limit is {limits.max_order_runs}")
    nodes, durations = values[::2], values[1::2]
    _check_indices("order", nodes, tree.node_count)
    sums = [0] * tree.node_count
    for node, duration_us in zip(nodes, durations, strict=True):
        sums[node] += duration_us
    if sums != tree.self_us:
        _refuse("wrong_order", "the durations in order do not sum to nodes.self_us")
    return list(zip(nodes, durations, strict=True))


def _member(container: dict[str, object], key: str, field: str) -> object:
    if key not in container:
        _refuse("missing_field", f"{field} is missing")
    return container[key]


def _object(container: dict[str, object], key: str, field: str) -> dict[str, object]:
    value = _member(container, key, field)
    if not isinstance(value, dict):
        _refuse("wrong_type", f"{field} is no object")
    return cast("dict[str, object]", value)


def _array(container: dict[str, object], key: str, field: str) -> list[object]:
    value = _member(container, key, field)
    if not isinstance(value, list):
        _refuse("wrong_type", f"{field} is no array")
    return cast("list[object]", value)


def _integers(container: dict[str, object], key: str, field: str, *, lowest: int = 0) -> list[int]:
    values = _array(container, key, field)
    if not set(map(type, values)) <= {int}:
        _refuse("wrong_type", f"{field} holds something else than integers")
    integers = cast("list[int]", values)
    if integers and (min(integers) < lowest or max(integers) > MAX_INTEGER):
        _refuse("number_out_of_range", f"{field} holds a number outside {lowest} to {MAX_INTEGER}")
    return integers


def _check_length(field: str, values: list[int], length: int) -> None:
    if len(values) != length:
        _refuse("wrong_length", f"{field} has {len(values)} entries, expected {length}")


def _check_indices(field: str, values: list[int], count: int) -> None:
    if values and max(values) >= count:
        _refuse("index_out_of_range", f"{field} holds {max(values)}, expected less than {count}")


def _refuse(reason: InvalidReason, message: str) -> NoReturn:
    raise InvalidPayload(reason, message) from None
