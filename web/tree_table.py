"""Rows of the call-tree table: the heavy path when the page opens, the children of a node on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otel_pyinstrument.call_tree import CallTree

CHILDREN_AT_ONCE = 50
"""More children than this come by a further request."""

HEAVY_SHARE = 0.2
"""The heavy path goes on while the heaviest child has this share of the request."""

HEAVY_DEPTH = 40
"""Levels that are open when the page opens, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """One node. `level` counts from 1 (the request); times are microseconds."""

    node: int
    level: int
    position: int
    siblings: int
    function: str
    file: str
    line: int
    own_code: bool
    self_us: int
    total_us: int
    samples: int
    expandable: bool
    expanded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreChildren:
    """Stands where the next children of `parent` would be; `count` are not shown yet."""

    parent: int
    level: int
    offset: int
    count: int


class TreeTable:
    """Children of every node, largest total first. Building it is O(n log n); nothing in it recurses."""

    def __init__(self, tree: CallTree, root_label: str) -> None:
        self._tree = tree
        self._root_label = root_label
        self._total_us = tree.total_us()
        self._children: list[list[int]] = [[] for _ in range(tree.node_count)]
        self._level = [1] * tree.node_count
        for node in range(1, tree.node_count):
            self._children[tree.parent[node]].append(node)
            self._level[node] = self._level[tree.parent[node]] + 1
        for children in self._children:
            children.sort(key=lambda node: -self._total_us[node])

    @property
    def duration_us(self) -> int:
        """What shares refer to."""
        return self._total_us[0]

    def __contains__(self, node: int) -> bool:
        return 0 <= node < self._tree.node_count

    def heavy_path(self) -> list[TreeRow | MoreChildren]:
        """The root, opened along the heaviest child of each level while it matters."""
        path: set[int] = set()
        node: int | None = 0
        while node is not None and len(path) < HEAVY_DEPTH:
            path.add(node)
            heaviest = self._children[node][0] if self._children[node] else None
            matters = heaviest is not None and self._total_us[heaviest] >= HEAVY_SHARE * self.duration_us
            node = heaviest if matters else None
        rows: list[TreeRow | MoreChildren] = [self._row(0, 1, 1, expanded=bool(self._children[0]))]
        # Opened nodes are always the first of their siblings, so the lists nest like brackets.
        closing: list[Sequence[TreeRow | MoreChildren]] = []
        node = 0
        while node is not None:
            first, *rest = self._child_rows(node, 0, path) or [None]
            closing.append([row for row in rest if row is not None])
            node = None
            if isinstance(first, TreeRow):
                rows.append(first)
                node = first.node if first.expanded else None
        for others in reversed(closing):
            rows.extend(others)
        return rows

    def children(self, node: int, offset: int = 0) -> list[TreeRow | MoreChildren]:
        """The closed rows of `node`'s children from `offset`; empty when there are none."""
        return self._child_rows(node, offset, frozenset())

    def _child_rows(
        self, node: int, offset: int, opened: frozenset[int] | set[int]
    ) -> list[TreeRow | MoreChildren]:
        children = self._children[node]
        shown = children[offset : offset + CHILDREN_AT_ONCE]
        rows: list[TreeRow | MoreChildren] = [
            self._row(
                child, position, len(children), expanded=child in opened and bool(self._children[child])
            )
            for position, child in enumerate(shown, start=offset + 1)
        ]
        rest = len(children) - offset - len(shown)
        if rest > 0:
            level = self._level[node] + 1
            rows.append(MoreChildren(parent=node, level=level, offset=offset + len(shown), count=rest))
        return rows

    def _row(self, node: int, position: int, siblings: int, *, expanded: bool) -> TreeRow:
        tree = self._tree
        frame = tree.frames[tree.frame[node]]
        return TreeRow(
            node=node,
            level=self._level[node],
            position=position,
            siblings=siblings,
            function=self._root_label if node == 0 else frame.function,
            file=frame.file,
            line=frame.line,
            own_code=frame.own_code,
            self_us=tree.self_us[node],
            total_us=self._total_us[node],
            samples=tree.samples[node],
            expandable=bool(self._children[node]),
            expanded=expanded,
        )
