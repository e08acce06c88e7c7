from __future__ import annotations

from textwrap import dedent

import pytest

from otel_pyinstrument.call_tree import prune

SHOP = """
    [request] 1
      view 10
        query 100
          lib_send 1000
          lib_wait 500
        render 5
          lib_escape 3
        log 4
      close 2
"""


def test_the_smallest_subtrees_fold_into_one_leaf_of_their_parent(outline, draw):
    assert draw(prune(outline(SHOP), max_nodes=7)) == dedent("""\
        [request] 1
          view 10
            query 100
              lib_send 1000
              lib_wait 500
            [other] 12
          close 2""")


@pytest.mark.parametrize(
    ("max_nodes", "expected"),
    [
        (1, "[request] 1625"),
        (2, "[request] 1 [other] 1624"),
        (3, "[request] 1 [other] 1624"),
        (4, "[request] 1 view 10 [other] 1612 close 2"),
        (5, "[request] 1 view 10 [other] 1612 close 2"),
        (6, "[request] 1 view 10 query 100 [other] 1500 [other] 12 close 2"),
        (7, "[request] 1 view 10 query 100 lib_send 1000 lib_wait 500 [other] 12 close 2"),
        (8, "[request] 1 view 10 query 100 lib_send 1000 lib_wait 500 [other] 12 close 2"),
    ],
)
def test_no_limit_is_too_small(outline, flat, max_nodes, expected):
    assert flat(prune(outline(SHOP), max_nodes=max_nodes)) == expected


def test_a_single_leaf_is_never_replaced_by_another_leaf(outline, flat):
    # Given
    tree = outline("""
        [request] 0
          view 100
            query 10
              send 1
              wait 2
          close 0
    """)

    # When
    pruned = prune(tree, max_nodes=5)

    # Then
    assert flat(pruned) == "[request] 0 view 100 query 10 [other] 3 close 0"


def test_what_was_folded_before_is_folded_again_into_one_leaf(outline, flat):
    # Given
    tree = outline("""
        [request] 0
          view 100
            [other] 50
            query 20
              send 1
            render 3
            log 2
    """)

    # When
    pruned = prune(tree, max_nodes=5)

    # Then
    assert flat(pruned) == "[request] 0 view 100 [other] 55 query 20 send 1"


def test_a_single_leaf_below_the_root_goes_into_the_root_when_there_is_room_for_one(outline, flat):
    assert flat(prune(outline("[request] 1\n  view 2"), max_nodes=1)) == "[request] 3"


def test_time_order_survives_and_neighbours_join(outline):
    # Given
    tree = outline(
        """
        [request] 0
          view 10
            send 3
            wait 2
            log 1
        """,
        order=[(1, 5), (2, 1), (3, 2), (2, 2), (1, 5), (4, 1)],
    )

    # When
    pruned = prune(tree, max_nodes=3)

    # Then
    pruned.self_check()
    assert pruned.order == [(1, 5), (2, 5), (1, 5), (2, 1)]


def test_a_small_tree_comes_back_as_it_is(outline):
    tree = outline(SHOP)

    assert prune(tree, max_nodes=9) is tree


def test_no_node_at_all_is_refused(outline):
    with pytest.raises(ValueError, match="max_nodes is 0"):
        prune(outline(SHOP), max_nodes=0)


def test_samples_are_folded_with_their_time(outline):
    pruned = prune(outline(SHOP), max_nodes=4)

    assert pruned.sample_count == 9
    assert pruned.samples == [1, 1, 6, 1]


def test_a_tree_without_any_time_is_pruned_too(outline, draw):
    tree = outline("""
        [request] 0
          view 0
            query 0
            send 0
          close 0
          log 0
    """)

    for max_nodes in range(1, 6):
        assert len(draw(prune(tree, max_nodes=max_nodes)).splitlines()) <= max_nodes


def test_frames_that_nobody_shows_any_more_are_dropped(outline):
    pruned = prune(outline(SHOP), max_nodes=4)

    assert [frame.function for frame in pruned.frames] == ["[request]", "view", "[other]", "close"]
