"""Writes a call tree as a payload of wire format version 1, within a byte budget."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from otel_pyinstrument.call_tree.limits import DEFAULT_LIMITS, FORMAT_VERSION, MAX_TEXT_BYTES
from otel_pyinstrument.call_tree.prune import fold_below, prune
from otel_pyinstrument.call_tree.text import bounded_name, bounded_path, is_plain_in_json
from otel_pyinstrument.call_tree.tree import CallTree

MIN_BUDGET_BYTES = 512
"""The smallest `max_bytes`: a lone root always fits."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_MAX_ENCODES = 6
_FEWEST_WINDOW_BITS = 9
_GOOD_ENOUGH = 0.85
_AIM = 0.95
# A tree of a few huge names is worth more with shorter names than with fewer nodes.
_TEXT_BYTES_AND_FEWEST_NODES = ((MAX_TEXT_BYTES, 32), (64, 32), (16, 1))


class Encoded(NamedTuple):
    """A payload (zlib of JSON) and what it holds. `pruned`: nodes were folded or names cut to fit."""

    payload: bytes
    node_count: int
    pruned: bool


class _Attempt(NamedTuple):
    payload: bytes
    load: float
    """Share of the budget that it uses; fits up to 1."""


def encode(tree: CallTree, *, max_bytes: int = 65_536) -> Encoded:
    """Encode `tree` in at most `max_bytes`; works for every tree that passes `self_check`.

    What does not fit goes in this order: the time order, the smallest subtrees (see `prune`) down to some
    30 nodes, the end of long names, more subtrees. The root's total stays exact in any case. The bounds of
    `DEFAULT_LIMITS` on depth, frames, nodes, runs and JSON hold too. Only the sums stay whatever they are: a
    merged tree of more than 101 days needs a reader with a larger `max_sum`.

    Control characters and lone surrogates in names become visible escapes, names are cut to 512 bytes.
    Raises ValueError when `max_bytes` is below 512. Costs up to about ten compressions of the tree: not for
    the profiled request's thread.
    """
    if max_bytes < MIN_BUDGET_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}: a payload needs {MIN_BUDGET_BYTES}")
    within = _within_limits(tree)
    attempt = _attempt(within, MAX_TEXT_BYTES, max_bytes)
    if attempt.load > 1 and within.order is not None:
        within = _without_order(within)
        attempt = _attempt(within, MAX_TEXT_BYTES, max_bytes)
    if attempt.load <= 1:
        return Encoded(attempt.payload, within.node_count, pruned=within.node_count < tree.node_count)
    start = int(within.node_count * _AIM / attempt.load)
    for text_bytes, fewest_nodes in _TEXT_BYTES_AND_FEWEST_NODES:
        encoded = _largest_fit(within, text_bytes, max_bytes, fewest_nodes, start)
        if encoded is not None:
            return encoded
        start = max_bytes
    raise AssertionError("a lone root, with its short fixed name, fits every budget")


def _within_limits(tree: CallTree) -> CallTree:
    """What every reader accepts: `DEFAULT_LIMITS` for depth, frames, nodes and runs."""
    limits = DEFAULT_LIMITS
    if tree.order is not None and len(tree.order) > limits.max_order_runs:
        tree = _without_order(tree)
    unused_frames = len(tree.frames) > tree.node_count
    if unused_frames or (tree.node_count > limits.max_depth and max(tree.depth()) > limits.max_depth):
        tree = fold_below(tree, max_depth=limits.max_depth)
    return prune(
        tree, max_nodes=limits.max_frames if len(tree.frames) > limits.max_frames else limits.max_nodes
    )


def _without_order(tree: CallTree) -> CallTree:
    return CallTree(tree.frames, tree.parent, tree.frame, tree.self_us, tree.samples)


def _largest_fit(
    tree: CallTree, text_bytes: int, max_bytes: int, fewest_nodes: int, start: int
) -> Encoded | None:
    """Search the node count that uses the budget well; None when even `fewest_nodes` are too large.

    Size is close to proportional to the node count, so each try aims from the one before. The last try
    takes the fewest nodes if nothing has fitted yet; otherwise the best fit so far stands.
    """
    best: Encoded | None = None
    lowest, too_many = min(fewest_nodes, tree.node_count), tree.node_count + 1
    count = min(max(start, lowest), tree.node_count)
    for remaining in reversed(range(_MAX_ENCODES)):
        pruned = prune(tree, max_nodes=count)
        attempt = _attempt(pruned, text_bytes, max_bytes)
        if attempt.load <= 1:
            best = Encoded(attempt.payload, pruned.node_count, pruned=True)
            lowest = count + 1
        else:
            too_many = count
        if lowest >= too_many or _GOOD_ENOUGH <= attempt.load <= 1:
            break
        count = min(max(int(count * _AIM / attempt.load), lowest), too_many - 1)
        if remaining == 1 and best is None:
            count = lowest
    return best


def _attempt(tree: CallTree, text_bytes: int, max_bytes: int) -> _Attempt:
    text = _json(tree, text_bytes).encode()
    load = len(text) / DEFAULT_LIMITS.max_json_bytes
    if load > 1:
        return _Attempt(b"", load)
    payload = _compressed(text)
    return _Attempt(payload, max(load, len(payload) / max_bytes))


def _compressed(text: bytes) -> bytes:
    """zlib's usual 260 KiB, cleared and given back each time, cost a small text more than compressing it."""
    window_bits = min(max(len(text).bit_length(), _FEWEST_WINDOW_BITS), zlib.MAX_WBITS)
    memory_level = window_bits - (zlib.MAX_WBITS - zlib.DEF_MEM_LEVEL)
    compressor = zlib.compressobj(6, zlib.DEFLATED, window_bits, memory_level)
    return compressor.compress(text) + compressor.flush()


def _json(tree: CallTree, text_bytes: int) -> str:
    """Put together by hand: less work than for an encoder that does not know what the arrays hold."""
    members: list[Any] = list(chain.from_iterable(tree.frames))
    functions, files, lines, own_code = members[::4], members[1::4], members[2::4], members[3::4]
    strings, function_numbers, file_numbers = _numbered(functions, files)
    if is_plain_in_json(strings, text_bytes):
        written_strings = '["' + '","'.join(strings) + '"]'
    else:
        strings, function_numbers, file_numbers = _numbered(
            [bounded_name(function, text_bytes) for function in functions],
            [bounded_path(file, text_bytes) for file in files],
        )
        written_strings = _JSON.encode(list(strings))
    order = "" if tree.order is None else f',"order":{_array(list(chain.from_iterable(tree.order)))}'
    return (
        f'{{"v":{FORMAT_VERSION},"strings":{written_strings},'
        f'"frames":{{"function":{_array(function_numbers)},"file":{_array(file_numbers)},'
        f'"line":{_array(lines)},"own":[{",".join(["01"[own] for own in own_code])}]}},'
        f'"nodes":{{"parent":{_array(tree.parent)},"frame":{_array(tree.frame)},'
        f'"self_us":{_array(tree.self_us)},"samples":{_array(tree.samples)}}}{order}}}'
    )


def _numbered(functions: Sequence[str], files: Sequence[str]) -> tuple[dict[str, int], list[int], list[int]]:
    """The different texts in order of first use, and their numbers per function and per file."""
    number_of: dict[str, int] = {}
    function_numbers: list[int] = []
    file_numbers: list[int] = []
    for function, file in zip(functions, files, strict=True):
        function_numbers.append(number_of.setdefault(function, len(number_of)))
        file_numbers.append(number_of.setdefault(file, len(number_of)))
    return number_of, function_numbers, file_numbers


def _array(integers: Sequence[int]) -> str:
    """One format for all is the fastest way to write many integers."""
    return "[" + ("%d," * len(integers))[:-1] % tuple(integers) + "]"
