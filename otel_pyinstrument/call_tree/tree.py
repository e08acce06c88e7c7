"""The call tree itself: flat arrays in preorder, so that no depth and no serialiser is ever a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otel_pyinstrument.call_tree.frame import ROOT, Frame

MAX_SUM = 2**53 - 1
"""Largest sum of self times (microseconds) or samples: what every JSON reader can hold exactly."""


class InvalidCallTree(ValueError):
    """A tree breaks one of its rules; the message names the rule."""


@dataclass(slots=True)
class CallTree:
    """Where the time of one request went, or of many after a merge.

    One entry per node in `parent`, `frame`, `self_us` and `samples`. Nodes are in true preorder: a node
    stands directly before its first child's subtree, so a subtree is one slice. Node 0 is the root, its
    parent is -1 and its frame is `ROOT`. `frame` holds indices into `frames`. `self_us` is in microseconds.

    `order` is the optional time order: runs (node, duration in microseconds) as they happened. The runs
    of a node sum to its `self_us`.
    """

    frames: list[Frame]
    parent: list[int]
    frame: list[int]
    self_us: list[int]
    samples: list[int]
    order: list[tuple[int, int]] | None = None

    @property
    def node_count(self) -> int:
        return len(self.parent)

    @property
    def duration_us(self) -> int:
        """Total time of the tree in microseconds."""
        return sum(self.self_us)

    @property
    def sample_count(self) -> int:
        return sum(self.samples)

    def total_us(self) -> list[int]:
        """Inclusive time of every node in microseconds."""
        totals = self.self_us.copy()
        parent = self.parent
        for node in range(len(parent) - 1, 0, -1):
            totals[parent[node]] += totals[node]
        return totals

    def depth(self) -> list[int]:
        """Distance of every node from the root, which has depth 0."""
        depths = [0] * len(self.parent)
        for node, parent in enumerate(self.parent):
            if node:
                depths[node] = depths[parent] + 1
        return depths

    def subtree_end(self, node: int) -> int:
        """The node after the last descendant of `node`: the subtree is `range(node, subtree_end(node))`."""
        parent = self.parent
        end = node + 1
        while end < len(parent) and parent[end] >= node:
            end += 1
        return end

    def children(self, node: int) -> list[int]:
        """The children of `node` in their order in the tree. Costs one pass over its subtree."""
        parent = self.parent
        return [child for child in range(node + 1, self.subtree_end(node)) if parent[child] == node]

    def self_check(self) -> None:
        """Raise `InvalidCallTree` that names the broken rule, or return."""
        count = len(self.parent)
        if not count:
            raise InvalidCallTree("a tree has at least its root")
        _check_integers("parent", self.parent, lowest=-1)
        for name, values in (("frame", self.frame), ("self_us", self.self_us), ("samples", self.samples)):
            if len(values) != count:
                raise InvalidCallTree(f"{name} has {len(values)} entries, parent has {count}")
            _check_integers(name, values)
        _check_sum("self_us", self.self_us)
        _check_sum("samples", self.samples)
        self._check_frames()
        broken = first_preorder_violation(self.parent)
        if broken is not None:
            raise InvalidCallTree(f"node {broken} with parent {self.parent[broken]} is not in preorder")
        if self.order is not None:
            self._check_order(self.order)

    def _check_frames(self) -> None:
        for frame in self.frames:
            if tuple(map(type, frame)) != (str, str, int, bool):
                raise InvalidCallTree(f"{frame!r:.200} is no frame: text, text, int, bool")
            if not 0 <= frame.line <= MAX_SUM:
                raise InvalidCallTree(f"line {frame.line} of {frame!r:.200} is no line number")
        if max(self.frame) >= len(self.frames):
            raise InvalidCallTree(f"frame refers to {max(self.frame)}, there are {len(self.frames)} frames")
        if self.frames[self.frame[0]] != ROOT:
            raise InvalidCallTree(f"the root's frame is {self.frames[self.frame[0]]!r:.200}")

    def _check_order(self, order: list[tuple[int, int]]) -> None:
        sums = [0] * len(self.parent)
        _check_integers("order", [number for run in order for number in run])
        for node, duration_us in order:
            if node >= len(sums):
                raise InvalidCallTree(f"order refers to node {node}, there are {len(sums)} nodes")
            sums[node] += duration_us
        if sums != self.self_us:
            node = next(node for node, total in enumerate(sums) if total != self.self_us[node])
            raise InvalidCallTree(
                f"order gives node {node} {sums[node]} us, self_us says {self.self_us[node]}"
            )


def first_preorder_violation(parent: Sequence[int]) -> int | None:
    """The first node that makes `parent` something else than a tree in preorder; None when it is one.

    In preorder the parent of a node is the node before it or one of that node's ancestors.
    """
    if parent[0] != -1:
        return 0
    path = [0]
    for node in range(1, len(parent)):
        while path and path[-1] != parent[node]:
            path.pop()
        if not path:
            return node
        path.append(node)
    return None


def _check_integers(name: str, values: Sequence[int], *, lowest: int = 0) -> None:
    if not set(map(type, values)) <= {int}:
        raise InvalidCallTree(f"{name} holds something else than int")
    if min(values, default=lowest) < lowest:
        raise InvalidCallTree(f"{name} holds {min(values)}, less than {lowest}")


def _check_sum(name: str, values: Sequence[int]) -> None:
    if sum(values) > MAX_SUM:
        raise InvalidCallTree(f"{name} sums to {sum(values)}, more than {MAX_SUM}")
