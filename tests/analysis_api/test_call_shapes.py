from __future__ import annotations

import json

import pytest

from analysis_api.call_shapes import flat_calls, nested_calls
from otel_pyinstrument.call_tree import ROOT, CallTree, Frame

VIEW = Frame("orders_page", "shop/views.py", 10, True)
QUERY = Frame("load_orders", "shop/orders.py", 41, True)
DRIVER = Frame("Cursor.execute", "sqlite3/driver.py", 7, False)


def small_tree() -> CallTree:
    """[request] -> orders_page -> (load_orders -> Cursor.execute, Cursor.execute)"""
    return CallTree(
        frames=[ROOT, VIEW, QUERY, DRIVER],
        parent=[-1, 0, 1, 2, 1],
        frame=[0, 1, 2, 3, 3],
        self_us=[0, 100_000, 50_000, 600_000, 250_000],
        samples=[0, 10, 5, 60, 25],
    )


def chain(depth: int) -> CallTree:
    """A tree whose only leaf lies `depth` levels below the root."""
    return CallTree(
        frames=[ROOT, VIEW],
        parent=list(range(-1, depth)),
        frame=[0] + [1] * depth,
        self_us=[0] * depth + [1_000],
        samples=[0] * depth + [1],
    )


def broad(children: int) -> CallTree:
    """A root with many leaves; the later, the longer."""
    return CallTree(
        frames=[ROOT, VIEW],
        parent=[-1] + [0] * children,
        frame=[0] + [1] * children,
        self_us=[0, *range(1, children + 1)],
        samples=[0] + [1] * children,
    )


def levels(call: dict) -> int:
    count = 1
    while call["children"]:
        call = call["children"][0]
        count += 1
    return count


def test_a_nested_call_tells_function_place_and_times() -> None:
    # Given a small tree
    # When it is nested
    (root,) = nested_calls(small_tree())

    # Then durations are inclusive seconds, and samples are counted through the stack
    view = root["children"][0]
    assert (root["function"], root["duration"], root["parent_call_id"]) == ("[request]", 1.0, None)
    query = view["children"][0]
    assert {name: value for name, value in query.items() if name != "children"} == {
        "call_id": 2,
        "parent_call_id": 1,
        "depth": 2,
        "call_order": 2,
        "function": "load_orders",
        "module": "shop.orders",
        "file": "shop/orders.py",
        "line": 41,
        "duration": 0.65,
        "self_duration": 0.05,
        "calls_count": 65,
        "own_code": True,
        "children_omitted": 0,
    }
    assert [child["function"] for child in view["children"]] == ["load_orders", "Cursor.execute"]


def test_nesting_stops_at_the_depth_limit_and_says_what_it_left_out() -> None:
    # Given a tree far deeper than any JSON reader accepts
    tree = chain(10_000)

    # When it is nested
    (root,) = nested_calls(tree, max_depth=60)

    # Then it has the levels allowed, the last one names its omitted child, and JSON can write it
    assert levels(root) == 60
    last = root
    while last["children"]:
        last = last["children"][0]
    assert (last["call_id"], last["children_omitted"]) == (59, 1)
    json.dumps(root)


def test_a_nested_tree_can_be_continued_where_it_stopped() -> None:
    # Given a deep tree and the call where the limit cut
    tree = chain(200)

    # When it is asked for from there
    (root,) = nested_calls(tree, 59, max_depth=60)

    # Then that call is the root, with its ids and its depth in the whole tree
    assert (root["call_id"], root["parent_call_id"], root["depth"]) == (59, 58, 59)
    assert levels(root) == 60


def test_the_longest_calls_survive_the_limit_of_calls() -> None:
    # Given a root with 100 children, the last being the longest
    tree = broad(100)

    # When only 11 calls are allowed
    (root,) = nested_calls(tree, max_calls=11)

    # Then the ten longest children stay, in their order, and the others are counted
    assert [child["call_id"] for child in root["children"]] == list(range(91, 101))
    assert root["children_omitted"] == 90


def test_a_cut_tree_has_no_call_without_its_parent() -> None:
    # Given two branches with equal times all the way down
    tree = CallTree(
        frames=[ROOT, VIEW],
        parent=[-1, 0, 1, 2, 0, 4, 5],
        frame=[0, 1, 1, 1, 1, 1, 1],
        self_us=[0, 0, 0, 500, 0, 0, 500],
        samples=[0, 0, 0, 1, 0, 0, 1],
    )

    # When four calls are allowed
    (root,) = nested_calls(tree, max_calls=4)

    # Then one branch is whole and the other one is counted as omitted
    assert levels(root) == 4
    assert [child["call_id"] for child in root["children"]] == [1]
    assert root["children_omitted"] == 1


def test_flat_calls_hold_every_call_of_the_deepest_tree() -> None:
    # Given a tree that cannot be nested
    flat = flat_calls(chain(10_000))

    # Then every column has one entry per call, in preorder
    columns = flat["calls"]
    assert {len(column) for column in columns.values()} == {10_001}
    assert columns["parent_call_id"][:3] == [None, 0, 1]
    assert columns["depth"][-1] == 10_000
    assert columns["duration"][0] == 0.001
    json.dumps(flat)


def test_flat_calls_of_a_subtree_keep_their_ids() -> None:
    # Given the subtree of load_orders
    flat = flat_calls(small_tree(), 2)

    # Then it holds that call and its child, numbered as in the whole tree
    columns = flat["calls"]
    assert columns["call_id"] == [2, 3]
    assert columns["parent_call_id"] == [1, 2]
    assert [flat["functions"]["function"][index] for index in columns["function_index"]] == [
        "load_orders",
        "Cursor.execute",
    ]
    assert columns["calls_count"] == [65, 60]


@pytest.mark.parametrize("tree", [small_tree(), chain(500), broad(50)])
def test_nested_and_flat_say_the_same(tree: CallTree) -> None:
    # Given both forms without limits
    (root,) = nested_calls(tree, max_depth=100_000, max_calls=100_000)
    columns = flat_calls(tree)["calls"]

    # When the nested one is walked
    seen = {}
    waiting = [root]
    while waiting:
        call = waiting.pop()
        waiting += call["children"]
        seen[call["call_id"]] = (
            call["parent_call_id"],
            call["duration"],
            call["self_duration"],
            call["calls_count"],
        )

    # Then it holds what the columns hold
    rows = zip(
        columns["parent_call_id"],
        columns["duration"],
        columns["self_duration"],
        columns["calls_count"],
        strict=True,
    )
    assert seen == dict(enumerate(rows))
