"""Trees written and compared as indented text: `name self_us`, two spaces per level.

Names in brackets are synthetic, names that start with `lib_` are not own code.
"""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

from otel_pyinstrument.call_tree import CallTree, Frame


def _frame(name: str) -> Frame:
    if name.startswith("["):
        return Frame(name, "", 0, False)
    return Frame(name, "shop/orders.py", 7, not name.startswith("lib_"))


@pytest.fixture
def outline() -> Callable[..., CallTree]:
    """Reads a tree from its text; one sample per node."""

    def read(text: str, order: list[tuple[int, int]] | None = None) -> CallTree:
        tree = CallTree([], [], [], [], [], order)
        path: list[int] = []
        for line in dedent(text).strip().splitlines():
            depth = (len(line) - len(line.lstrip())) // 2
            name, self_us = line.split()
            del path[depth:]
            if _frame(name) not in tree.frames:
                tree.frames.append(_frame(name))
            tree.parent.append(path[-1] if path else -1)
            tree.frame.append(tree.frames.index(_frame(name)))
            tree.self_us.append(int(self_us))
            tree.samples.append(1)
            path.append(tree.node_count - 1)
        tree.self_check()
        return tree

    return read


@pytest.fixture
def draw() -> Callable[[CallTree], str]:
    """The text of a tree, after its self check."""

    def write(tree: CallTree) -> str:
        tree.self_check()
        return "\n".join(
            f"{'  ' * depth}{tree.frames[frame].function} {self_us}"
            for depth, frame, self_us in zip(tree.depth(), tree.frame, tree.self_us, strict=True)
        )

    return write


@pytest.fixture
def flat(draw: Callable[[CallTree], str]) -> Callable[[CallTree], str]:
    """The same on one line, for small trees."""
    return lambda tree: " ".join(draw(tree).split())
