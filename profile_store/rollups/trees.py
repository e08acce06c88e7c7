"""One call tree out of thousands, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from otel_pyinstrument.call_tree import (
    DEFAULT_LIMITS,
    CallTree,
    HotFunction,
    InvalidPayload,
    decode,
    encode,
    hot_functions,
    merge,
    prune,
)

MAX_TREE_BYTES = 32 * 1024
"""What a merged tree of one group and hour takes in the store at most."""

MAX_HOT_FUNCTIONS = 30

_MAX_NODES = 20_000
_TREES_PER_MERGE = 20

# 142 years; below what readers of JSON hold exactly.
_MAX_DURATION_US = 2**52
_READ_LIMITS = DEFAULT_LIMITS._replace(max_sum=2**53 - 1)


class TreeMerger:
    """Adds call trees up. All sums stay exact; what the limit on nodes leaves out ends in `[other]`.

    The same trees in the same order give the same result. Costs about a millisecond per tree of 200 nodes.
    """

    def __init__(self) -> None:
        self._tree = merge(())
        self._next: list[CallTree] = []
        self._duration_us = 0
        self.profiles = 0
        self.unusable = 0

    def add_payload(self, payload: bytes) -> None:
        """Add a profile as it is stored; a damaged one is counted in `unusable`."""
        try:
            tree = decode(payload)
        except InvalidPayload:
            self.unusable += 1
            return
        self.add(tree, 1)

    def add(self, tree: CallTree, profiles: int) -> None:
        """Add a tree that stands for so many profiles."""
        duration_us = self._duration_us + tree.duration_us
        if duration_us > _MAX_DURATION_US:
            self.unusable += profiles
            return
        self._duration_us = duration_us
        self.profiles += profiles
        self._next.append(tree)
        if len(self._next) >= _TREES_PER_MERGE:
            self._merge()

    def tree(self) -> CallTree:
        """The sum of all trees so far; children stand heaviest first."""
        self._merge()
        return self._tree

    def _merge(self) -> None:
        if self._next:
            self._tree = prune(merge([self._tree, *self._next]), max_nodes=_MAX_NODES)
            self._next = []


def pack_tree(tree: CallTree) -> bytes:
    """A merged tree in wire format version 1, pruned to `MAX_TREE_BYTES`."""
    return encode(tree, max_bytes=MAX_TREE_BYTES).payload


def unpack_tree(payload: bytes) -> CallTree:
    """The inverse of `pack_tree`.

    Raises:
        InvalidPayload: damaged.
    """
    return decode(payload, limits=_READ_LIMITS)


def hottest(tree: CallTree) -> list[HotFunction]:
    """The functions of a merged tree that the most time is charged to."""
    return hot_functions(tree, limit=MAX_HOT_FUNCTIONS)


def sum_hot_functions(lists: Iterable[Sequence[HotFunction]]) -> list[HotFunction]:
    """The hot functions of several trees together, heaviest first.

    Where a function is not among the first `MAX_HOT_FUNCTIONS` of a tree, its time in that tree is missing.
    """
    sums: dict[object, HotFunction] = {}
    for functions in lists:
        for function in functions:
            known = sums.get(function.frame)
            if known is not None:
                function = HotFunction(
                    function.frame,
                    known.self_us + function.self_us,
                    known.total_us + function.total_us,
                    known.samples + function.samples,
                )
            sums[function.frame] = function
    return sorted(sums.values(), key=lambda function: (-function.self_us, function.frame))
