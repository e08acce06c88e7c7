from __future__ import annotations

import copy

import pytest

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame, InvalidCallTree

SHOP = """
    [request] 1
      view 10
        query 100
          lib_send 1000
        render 5
      close 2
"""


def test_inclusive_time_sums_self_times_of_the_subtree(outline):
    assert outline(SHOP).total_us() == [1118, 1115, 1100, 1000, 5, 2]


def test_depth_counts_from_the_root(outline):
    assert outline(SHOP).depth() == [0, 1, 2, 3, 2, 1]


def test_a_subtree_is_one_slice_of_the_preorder(outline):
    tree = outline(SHOP)

    assert [tree.subtree_end(node) for node in range(6)] == [6, 5, 4, 4, 5, 6]
    assert [tree.children(node) for node in range(6)] == [[1, 5], [2, 4], [3], [], [], []]


def test_counts_are_those_of_the_whole_tree(outline):
    tree = outline(SHOP)

    assert (tree.node_count, tree.duration_us, tree.sample_count) == (6, 1118, 6)


def test_a_lone_root_is_a_tree():
    tree = CallTree([ROOT], [-1], [0], [0], [0])

    tree.self_check()

    assert (tree.total_us(), tree.depth(), tree.children(0)) == ([0], [0], [])


def test_a_tree_with_time_order_passes_its_check(outline):
    outline(SHOP, order=[(3, 400), (4, 5), (3, 600), (0, 1), (1, 10), (2, 100), (5, 2)])


@pytest.mark.parametrize(
    ("rule", "damage"),
    [
        ("at least its root", {"parent": []}),
        ("frame has 5 entries", {"frame": [0, 1, 2, 3, 4]}),
        ("self_us has 7 entries", {"self_us": [0] * 7}),
        ("samples has 0 entries", {"samples": []}),
        ("parent holds something else than int", {"parent": [-1, 0, 1, 2.0, 1, 0]}),
        ("self_us holds something else than int", {"self_us": [True, 0, 0, 0, 0, 0]}),
        ("samples holds something else than int", {"samples": [1, 1, 1, "1", 1, 1]}),
        ("self_us holds -1", {"self_us": [0, 0, -1, 0, 0, 0]}),
        ("samples holds -5", {"samples": [0, 0, -5, 0, 0, 0]}),
        ("self_us sums to", {"self_us": [2**52, 2**52, 0, 0, 0, 0]}),
        ("samples sums to", {"samples": [2**53, 0, 0, 0, 0, 0]}),
        ("frame holds -1", {"frame": [0, 1, 2, 3, 4, -1]}),
        ("frame refers to 6", {"frame": [0, 1, 2, 3, 4, 6]}),
        ("root's frame", {"frame": [1, 1, 2, 3, 4, 5]}),
        ("node 0", {"parent": [0, 0, 1, 2, 1, 0]}),
        ("parent holds -2", {"parent": [-1, -2, 1, 2, 1, 0]}),
        ("node 1 ", {"parent": [-1, -1, 1, 2, 1, 0]}),
        ("node 2 with parent 2", {"parent": [-1, 0, 2, 2, 1, 0]}),
        ("node 3 with parent 4", {"parent": [-1, 0, 1, 4, 1, 0]}),
        ("node 5 with parent 3", {"parent": [-1, 0, 1, 2, 1, 3]}),
        ("is no frame", {"frames": [ROOT, *[Frame("view", None, 1, True)] * 5]}),
        ("is no frame", {"frames": [ROOT, *[Frame("view", "", True, True)] * 5]}),
        ("is no frame", {"frames": [ROOT, *[Frame("view", "", 1, 1)] * 5]}),
        ("is no frame", {"frames": [ROOT, *[("view", "")] * 5]}),
        ("line -3", {"frames": [ROOT, *[Frame("view", "", -3, True)] * 5]}),
        ("order refers to node 6", {"order": [(6, 1)]}),
        ("order holds -1", {"order": [(-1, 1)]}),
        ("order holds something else", {"order": [(1, 1.0)]}),
        ("order gives node 0 0 us", {"order": []}),
        ("order gives node 1 11 us", {"order": [(0, 1), (1, 11), (2, 100), (3, 1000), (4, 5), (5, 2)]}),
    ],
)
def test_a_broken_rule_is_named(outline, rule, damage):
    # Given
    tree = copy.deepcopy(outline(SHOP))
    for field, value in damage.items():
        setattr(tree, field, value)

    # When / Then
    with pytest.raises(InvalidCallTree, match=rule):
        tree.self_check()
