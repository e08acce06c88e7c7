"""What one node of a call tree shows: a function, or a synthetic place such as `[await]`."""

from __future__ import annotations

from typing import NamedTuple


class Frame(NamedTuple):
    """A function as the profile names it. Two nodes with equal frames are the same function.

    `function` is class-qualified (`Order.save`); synthetic frames stand in brackets. `file` is relative to
    the longest matching `sys.path` entry, empty for synthetic and built-in frames. `line` is the first
    line of the function, 0 when unknown. `own_code` is decided where the profile is taken: not the
    standard library, not an installed package.
    """

    function: str
    file: str
    line: int
    own_code: bool

    @property
    def module(self) -> str:
        """`shop.orders` for `shop/orders.py`, `shop` for `shop/__init__.py`, empty without a real file."""
        path = self.file.replace("\\", "/").strip("/")
        if not path or path.startswith("<"):
            return ""
        return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


ROOT = Frame("[request]", "", 0, False)
"""The frame of node 0 of every tree."""

OTHER = Frame("[other]", "", 0, False)
"""The frame of a leaf that holds what pruning folded away."""
