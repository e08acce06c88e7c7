from __future__ import annotations

from collections.abc import Callable

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame
from web.tree_table import CHILDREN_AT_ONCE, HEAVY_DEPTH, MoreChildren, TreeRow, TreeTable


def functions(rows: list[TreeRow | MoreChildren]) -> list[str]:
    return [row.function if isinstance(row, TreeRow) else f"+{row.count}" for row in rows]


def test_the_heavy_path_is_open_and_its_siblings_stand_in_place(tree_of: Callable[..., CallTree]) -> None:
    # Given a tree with one heavy branch among others
    tree = tree_of({"view>load>QUERY": 0.5, "view>load": 0.1, "view>render>ESCAPE": 0.3, "MIDDLEWARE>x": 0.1})

    # When the page opens
    rows = TreeTable(tree, "GET /orders").heavy_path()

    # Then every row stands below its parent, heaviest first, and only the heavy ones are open
    assert [(row.function, row.level, row.expanded) for row in rows if isinstance(row, TreeRow)] == [
        ("GET /orders", 1, True),
        ("view", 2, True),
        ("load", 3, True),
        ("QUERY", 4, False),
        ("render", 3, False),
        ("MIDDLEWARE", 2, False),
    ]


def test_children_come_heaviest_first_with_their_place_among_siblings(
    tree_of: Callable[..., CallTree],
) -> None:
    table = TreeTable(tree_of({"view>a": 0.1, "view>b": 0.3, "view": 0.2}), "GET /")
    rows = [row for row in table.children(1) if isinstance(row, TreeRow)]
    assert [(row.function, row.position, row.siblings) for row in rows] == [("b", 1, 2), ("a", 2, 2)]
    assert (rows[0].total_us, rows[0].self_us, rows[0].expandable) == (300_000, 300_000, False)
    assert table.duration_us == 600_000


def test_many_children_come_in_portions(tree_of: Callable[..., CallTree]) -> None:
    # Given a function with more calls than are shown at once
    table = TreeTable(
        tree_of({f"view>call{index}": 1 + index for index in range(CHILDREN_AT_ONCE + 7)}), "GET /"
    )

    # When the first and the second portion are asked for
    first, second = table.children(1), table.children(1, CHILDREN_AT_ONCE)

    # Then together they are all of them, once
    assert first[-1] == MoreChildren(parent=1, level=3, offset=CHILDREN_AT_ONCE, count=7)
    assert len(set(functions(first[:-1]) + functions(second))) == CHILDREN_AT_ONCE + 7
    assert table.children(1, 10_000) == []


def test_a_very_deep_tree_opens_to_a_limit() -> None:
    # Given 5,000 calls one inside the other
    depth = 5_000
    tree = CallTree(
        frames=[ROOT, Frame("walk", "walk.py", 1, True)],
        parent=list(range(-1, depth)),
        frame=[0] + [1] * depth,
        self_us=[0] * depth + [10],
        samples=[0] * depth + [1],
    )

    # Then the table neither recurses nor shows them all
    rows = TreeTable(tree, "GET /").heavy_path()
    assert len(rows) == HEAVY_DEPTH + 1
    last = rows[-1]
    assert isinstance(last, TreeRow)
    assert last.expandable
    assert not last.expanded


def test_a_root_without_calls_is_one_row() -> None:
    tree = CallTree(frames=[ROOT], parent=[-1], frame=[0], self_us=[0], samples=[0])
    table = TreeTable(tree, "GET /")
    assert functions(table.heavy_path()) == ["GET /"]
    assert 0 in table
    assert 1 not in table
    assert -1 not in table
