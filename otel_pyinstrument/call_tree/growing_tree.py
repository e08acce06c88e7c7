"""A tree that grows node by node, one node per path of frames, and ends as a flat preorder `CallTree`."""

from __future__ import annotations

from collections.abc import Sequence

from otel_pyinstrument.call_tree.frame import ROOT, Frame
from otel_pyinstrument.call_tree.tree import CallTree


class GrowingTree:
    """Nodes in order of creation, so `parent[i] < i`. Node 0 is the root. Indices go in, indices come out."""

    __slots__ = ("_frame_indices", "_nodes", "frame", "parent", "samples", "self_us")

    def __init__(self) -> None:
        self._frame_indices: dict[Frame, int] = {ROOT: 0}
        self._nodes: dict[tuple[int, int], int] = {}
        self.parent = [-1]
        self.frame = [0]
        self.self_us = [0]
        self.samples = [0]

    def frame_index(self, frame: Frame) -> int:
        return self._frame_indices.setdefault(frame, len(self._frame_indices))

    def child(self, parent: int, frame_index: int) -> int:
        """The child of `parent` that shows this frame; made when there is none."""
        node = self._nodes.setdefault((parent, frame_index), len(self.parent))
        if node == len(self.parent):
            self.parent.append(parent)
            self.frame.append(frame_index)
            self.self_us.append(0)
            self.samples.append(0)
        return node

    def add_tree(
        self,
        parent: Sequence[int],
        frame_indices: Sequence[int],
        self_us: Sequence[int],
        samples: Sequence[int],
    ) -> list[int]:
        """Lay a whole tree over this one, root on root. Returns for each of its nodes the node here."""
        target = [0] * len(parent)
        child = self.child
        for node in range(1, len(parent)):
            target[node] = child(target[parent[node]], frame_indices[node])
        for node, here in enumerate(target):
            self.self_us[here] += self_us[node]
            self.samples[here] += samples[node]
        return target

    def in_preorder(
        self, *, order: Sequence[tuple[int, int]] | None = None, heaviest_first: bool = False
    ) -> CallTree:
        """The flat tree: children in order of creation, or by inclusive time and then by frame.

        Frames come out in order of first use.
        """
        frames = list(self._frame_indices)
        children: list[list[int]] = [[] for _ in self.parent]
        for node in range(1, len(self.parent)):
            children[self.parent[node]].append(node)
        totals = self._totals() if heaviest_first else []
        tree = CallTree([], [], [], [], [])
        position = [0] * len(self.parent)
        frame_position: dict[int, int] = {}
        pending = [0]
        while pending:
            node = pending.pop()
            position[node] = len(tree.parent)
            tree.parent.append(position[self.parent[node]] if node else -1)
            tree.frame.append(frame_position.setdefault(self.frame[node], len(frame_position)))
            tree.self_us.append(self.self_us[node])
            tree.samples.append(self.samples[node])
            below = children[node]
            if heaviest_first:
                below.sort(key=lambda child: (-totals[child], frames[self.frame[child]]))
            below.reverse()
            pending.extend(below)
        tree.frames.extend(frames[index] for index in frame_position)
        if order is not None:
            tree.order = [(position[node], duration_us) for node, duration_us in order]
        return tree

    def _totals(self) -> list[int]:
        totals = self.self_us.copy()
        for node in range(len(totals) - 1, 0, -1):
            totals[self.parent[node]] += totals[node]
        return totals
