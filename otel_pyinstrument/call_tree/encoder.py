"""Writes a call tree as a payload of wire format version 1, within a byte budget."""

from __future__ import annotations

import json
import zlib
from itertools import chain
from typing import NamedTuple

from otel_pyinstrument.call_tree.limits import FORMAT_VERSION, MAX_TEXT_BYTES
from otel_pyinstrument.call_tree.prune import prune
from otel_pyinstrument.call_tree.text import cut_end, cut_start, printable
from otel_pyinstrument.call_tree.tree import CallTree

MIN_BUDGET_BYTES = 512
"""The smallest `max_bytes`: a lone root always fits."""

_MAX_ENCODES = 6
_GOOD_ENOUGH = 0.85
_AIM = 0.95
# A tree of a few huge names is worth more with shorter names than with fewer nodes.
_TEXT_BYTES_AND_FEWEST_NODES = ((MAX_TEXT_BYTES, 32), (64, 32), (16, 1))


class Encoded(NamedTuple):
    """A payload (zlib of JSON) and what it holds. `pruned`: nodes or names were cut to fit the budget."""

    payload: bytes
    node_count: int
    pruned: bool


def encode(tree: CallTree, *, max_bytes: int = 65_536) -> Encoded:
    """Encode `tree` in at most `max_bytes`; works for every tree that passes `self_check`.

    What does not fit goes in this order: the time order, the smallest subtrees (see `prune`) down to some
    30 nodes, the end of long names, more subtrees. The root's total stays exact in any case.

    Control characters and lone surrogates in names become visible escapes, names are cut to 512 bytes.
    Raises ValueError when `max_bytes` is below 512. Costs a few compressions of the tree: not for the
    profiled request's thread.
    """
    if max_bytes < MIN_BUDGET_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}: a payload needs {MIN_BUDGET_BYTES}")
    payload = _payload(tree, MAX_TEXT_BYTES)
    if len(payload) > max_bytes and tree.order is not None:
        tree = CallTree(tree.frames, tree.parent, tree.frame, tree.self_us, tree.samples)
        payload = _payload(tree, MAX_TEXT_BYTES)
    if len(payload) <= max_bytes:
        return Encoded(payload, tree.node_count, pruned=False)
    for text_bytes, fewest_nodes in _TEXT_BYTES_AND_FEWEST_NODES:
        encoded = _largest_fit(tree, text_bytes, max_bytes, min(fewest_nodes, tree.node_count))
        if encoded is not None:
            return encoded
    raise AssertionError("a lone root with its short fixed name fits every budget")


def _largest_fit(tree: CallTree, text_bytes: int, max_bytes: int, fewest_nodes: int) -> Encoded | None:
    """Search the node count that uses the budget well; None when even `fewest_nodes` are too large.

    Size is close to proportional to the node count, so each try aims from the one before. Once the tries
    are used up, the best fit so far stands.
    """
    best: Encoded | None = None
    too_many = tree.node_count + 1
    count = min(tree.node_count, max_bytes)
    for _ in range(_MAX_ENCODES):
        pruned = prune(tree, max_nodes=count)
        payload = _payload(pruned, text_bytes)
        if len(payload) <= max_bytes:
            best = Encoded(payload, pruned.node_count, pruned=True)
            if len(payload) >= _GOOD_ENOUGH * max_bytes:
                break
        else:
            too_many = count
        aim = int(count * _AIM * max_bytes / len(payload))
        lowest = fewest_nodes if best is None else best.node_count + 1
        if lowest >= too_many:
            break
        count = min(max(aim, lowest), too_many - 1)
    return best


def _payload(tree: CallTree, text_bytes: int) -> bytes:
    strings: dict[str, int] = {}
    function_indices: list[int] = []
    file_indices: list[int] = []
    for frame in tree.frames:
        function = cut_end(printable(frame.function), text_bytes)
        file = cut_start(printable(frame.file), text_bytes)
        function_indices.append(strings.setdefault(function, len(strings)))
        file_indices.append(strings.setdefault(file, len(strings)))
    document: dict[str, object] = {
        "v": FORMAT_VERSION,
        "strings": list(strings),
        "frames": {
            "function": function_indices,
            "file": file_indices,
            "line": [frame.line for frame in tree.frames],
            "own": [int(frame.own_code) for frame in tree.frames],
        },
        "nodes": {
            "parent": tree.parent,
            "frame": tree.frame,
            "self_us": tree.self_us,
            "samples": tree.samples,
        },
    }
    if tree.order is not None:
        document["order"] = list(chain.from_iterable(tree.order))
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode(), 6)
