from __future__ import annotations

import json
from collections.abc import Callable

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame
from web.flame_data import flame_json


def test_columns_hold_the_tree_as_it_is(tree_of: Callable[..., CallTree]) -> None:
    # Given a tree
    tree = tree_of({"view>load>QUERY": 0.5, "view>render": 0.25, "view": 0.1})

    # When it is written for the browser
    columns = json.loads(flame_json(tree))

    # Then names and nodes can be put together again
    names = columns["names"]
    frames = list(zip(names["function"], names["file"], names["line"], map(bool, names["own"]), strict=True))
    assert frames == [tuple(frame) for frame in tree.frames]
    assert columns["v"] == 1
    assert columns["nodes"] == {
        "parent": tree.parent,
        "frame": tree.frame,
        "self_us": tree.self_us,
        "samples": tree.samples,
    }


def test_names_are_safe_to_show_and_bounded() -> None:
    # Given names that hide, reorder, cannot be encoded, or never end
    names = ["evil\u202egnp", "nul\0", "\ud800", "x" * 10_000]
    frames = [ROOT, *(Frame(name, name, 1, True) for name in names)]
    tree = CallTree(
        frames=frames,
        parent=[-1, 0, 0, 0, 0],
        frame=[0, 1, 2, 3, 4],
        self_us=[0, 1, 1, 1, 1],
        samples=[0] * 5,
    )

    # Then the browser gets text that shows what it is
    shown = json.loads(flame_json(tree).decode("utf-8"))["names"]
    assert shown["function"][1:4] == ["evil\\u202Egnp", "nul\\u0000", "\\uD800"]
    assert len(shown["function"][4]) == 121
    assert shown["file"] == ["", *shown["function"][1:]]
