"""Builds a call tree while the request runs, one sampled stack at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress, count
from operator import ne

from otel_pyinstrument.call_tree.frame import ROOT, Frame
from otel_pyinstrument.call_tree.growing_tree import GrowingTree, flat_tree
from otel_pyinstrument.call_tree.tree import CallTree, first_preorder_violation

_MAX_SECONDS = 8.64e6  # 100 days: below what readers take for one profile (Limits.max_sum).
_RUNS_PER_NODE = 4


class CallTreeBuilder:
    """Streams sampled stacks into a tree: what `add` keeps is bounded by `max_nodes`, not by the samples.

    Time that the limits leave no node for goes to the deepest node that exists, and `truncated` is set.
    Used by one thread at a time; `add` runs on the profiled thread inside the profile hook.

    `key` maps a stack entry to what identifies its function, for stacks whose strings also carry things
    that change from sample to sample (a current line number). It is called only for the part of a stack
    that differs from the stack before.
    """

    __slots__ = (
        "_assigned_us",
        "_first_nodes",
        "_key",
        "_max_depth",
        "_max_nodes",
        "_other_nodes",
        "_parent",
        "_path",
        "_previous",
        "_run_nodes",
        "_run_us",
        "_samples",
        "_self_us",
        "_time_order",
        "_total_seconds",
        "truncated",
    )

    def __init__(
        self,
        *,
        max_nodes: int = 20_000,
        max_depth: int = 2_000,
        time_order: bool = False,
        key: Callable[[str], str] | None = None,
    ) -> None:
        if max_nodes < 1:
            raise ValueError(f"max_nodes is {max_nodes}: the root alone needs 1")
        if max_depth < 0:
            raise ValueError(f"max_depth is {max_depth}: use 0 or more")
        self._max_nodes = max_nodes
        self._max_depth = max_depth
        self._key = key
        self._time_order = time_order
        self.truncated = False
        self._total_seconds = 0.0
        self._assigned_us = 0
        self._parent = [-1]
        self._self_us = [0]
        self._samples = [0]
        # Of each name the first node, which also stands for the name, and by parent and name the others. Not
        # a dict per node: the garbage collector would run more often.
        self._first_nodes: dict[str, int] = {}
        self._other_nodes: dict[int, int] = {}
        self._previous: list[str] = []
        self._path = [0]
        self._run_nodes: list[int] = []
        self._run_us: list[int] = []

    @property
    def sample_count(self) -> int:
        return sum(self._samples)

    @property
    def node_count(self) -> int:
        return len(self._parent)

    def add(self, stack: Sequence[str], seconds: float, *, samples: int = 1) -> None:
        """Count one sample: `seconds` since the sample before were spent in `stack` (outermost call first).

        What is no positive number of seconds, or makes more than 100 days in all, adds no time, but still
        counts as a sample. With `samples=0` the time is known without a sample having been taken.
        """
        if stack != self._previous:
            self._follow(stack)
        node = self._path[-1]
        total = self._total_seconds + seconds
        if self._total_seconds < total <= _MAX_SECONDS:
            self._total_seconds = total
        # The carry stays in the running total, so the parts always sum to the rounded whole.
        total_us = round(self._total_seconds * 1e6)
        elapsed_us = total_us - self._assigned_us
        self._assigned_us = total_us
        self._self_us[node] += elapsed_us
        self._samples[node] += samples
        if self._time_order:
            self._extend_order(node, elapsed_us)

    def _follow(self, stack: Sequence[str]) -> None:
        """Make `_path` the nodes of `stack`, starting from what it shares with the stack before."""
        if len(stack) > self._max_depth:
            stack = stack[: self._max_depth]
            self.truncated = True
        previous = self._previous
        path = self._path
        shared = min(len(stack), len(previous))
        shared = next(compress(count(), map(ne, stack, previous)), shared)
        shared = min(shared, len(path) - 1)
        del path[shared + 1 :]
        tail = stack[shared:]
        previous[shared:] = tail
        node = path[-1]
        key, parent, max_nodes = self._key, self._parent, self._max_nodes
        first_nodes, other_nodes = self._first_nodes, self._other_nodes
        if len(self._samples) < len(parent) + len(tail):
            # Once per stack, not per node; and before, so that each node has figures whatever is raised here.
            self._self_us += [0] * len(tail)
            self._samples += [0] * len(tail)
        for name in tail:
            if key is not None:
                name = key(name)
            child = first = first_nodes.get(name)
            if first is not None and parent[first] != node:
                child = other_nodes.get(node * max_nodes + first)
            if child is None:
                child = len(parent)
                if child >= max_nodes:
                    self.truncated = True
                    break
                parent.append(node)
                if first is None:
                    first_nodes[name] = child
                else:
                    other_nodes[node * max_nodes + first] = child
            path.append(child)
            node = child

    def _extend_order(self, node: int, elapsed_us: int) -> None:
        if not elapsed_us:
            return
        if self._run_nodes and self._run_nodes[-1] == node:
            self._run_us[-1] += elapsed_us
        elif len(self._run_nodes) < _RUNS_PER_NODE * self._max_nodes:
            self._run_nodes.append(node)
            self._run_us.append(elapsed_us)
        else:
            self._time_order = False
            self._run_nodes.clear()
            self._run_us.clear()

    def build(self, describe: Callable[[str], Frame]) -> CallTree:
        """The tree so far. `describe` is called once per distinct name; `add` may go on afterwards.

        The microseconds of all nodes sum to `round(total seconds * 1e6)`. Names that `describe` maps to
        one frame become one node where they are siblings. The time order is left out when the request
        switched between nodes more often than 4 times `max_nodes`.
        """
        frames = [ROOT, *map(describe, self._first_nodes)]
        count = len(self._parent)
        frame_indices = [0] * count
        for index, node in enumerate(self._first_nodes.values(), 1):
            frame_indices[node] = index
        for place, node in self._other_nodes.items():
            frame_indices[node] = frame_indices[place % self._max_nodes]
        runs = list(zip(self._run_nodes, self._run_us, strict=True)) if self._time_order else None
        parent, self_us, samples = self._parent.copy(), self._self_us[:count], self._samples[:count]
        if len(set(frames)) == len(frames):
            if first_preorder_violation(parent) is None:
                return CallTree(frames, parent, frame_indices, self_us, samples, runs)
            return flat_tree(frames, parent, frame_indices, self_us, samples, order=runs)
        tree = GrowingTree()
        index_of = [tree.frame_index(frame) for frame in frames]
        joined = [index_of[index] for index in frame_indices]
        target = tree.add_tree(parent, joined, self_us, samples)
        if runs is None:
            return tree.in_preorder()
        return tree.in_preorder(order=[(target[node], duration_us) for node, duration_us in runs])
