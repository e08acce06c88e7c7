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
        nodes = self._heaviest_first(frames) if heaviest_first else None
        columns = self.parent, self.frame, self.self_us, self.samples
        return flat_tree(frames, *columns, order=order, nodes=nodes)

    def _heaviest_first(self, frames: Sequence[Frame]) -> list[int]:
        children: list[list[int]] = [[] for _ in self.parent]
        for node in range(1, len(self.parent)):
            children[self.parent[node]].append(node)
        totals = self._totals()
        nodes: list[int] = []
        pending = [0]
        while pending:
            node = pending.pop()
            nodes.append(node)
            below = children[node]
            below.sort(key=lambda child: (-totals[child], frames[self.frame[child]]))
            below.reverse()
            pending.extend(below)
        return nodes

    def _totals(self) -> list[int]:
        totals = self.self_us.copy()
        for node in range(len(totals) - 1, 0, -1):
            totals[self.parent[node]] += totals[node]
        return totals


def flat_tree(
    frames: Sequence[Frame],
    parent: Sequence[int],
    frame: Sequence[int],
    self_us: Sequence[int],
    samples: Sequence[int],
    *,
    order: Sequence[tuple[int, int]] | None = None,
    nodes: Sequence[int] | None = None,
) -> CallTree:
    """The preorder tree of nodes with `parent[i] < i`. Frames stand in order of first use.

    `nodes`: which preorder; without it, children stand in order of creation.
    """
    if nodes is None:
        nodes = _preorder(parent)
    position = [0] * len(nodes)
    for place, node in enumerate(nodes):
        position[node] = place
    used = dict.fromkeys([frame[node] for node in nodes])
    frame_position = {index: place for place, index in enumerate(used)}
    return CallTree(
        [frames[index] for index in used],
        [-1, *[position[parent[node]] for node in nodes[1:]]],
        [frame_position[frame[node]] for node in nodes],
        [self_us[node] for node in nodes],
        [samples[node] for node in nodes],
        None if order is None else [(position[node], duration_us) for node, duration_us in order],
    )


def _preorder(parent: Sequence[int]) -> list[int]:
    """The nodes as a preorder has them. No list per node: the garbage collector would run more often."""
    sizes = [1] * len(parent)
    for node in range(len(parent) - 1, 0, -1):
        sizes[parent[node]] += sizes[node]
    nodes = [0] * len(parent)
    next_place = [1] * len(parent)
    for node in range(1, len(parent)):
        above = parent[node]
        place = next_place[above]
        next_place[above] = place + sizes[node]
        next_place[node] = place + 1
        nodes[place] = node
    return nodes
