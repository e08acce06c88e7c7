from __future__ import annotations

import itertools

from otel_pyinstrument.call_tree import Frame, merge, prune

FIRST = """
    [request] 1
      view 10
        query 100
        render 5
"""
SECOND = """
    [request] 2
      close 7
      view 20
        render 500
          query 3
"""


def test_equal_paths_are_added_up_heaviest_first(outline, flat):
    # When
    merged = merge([outline(FIRST), outline(SECOND)])

    # Then
    assert flat(merged) == "[request] 3 view 30 render 505 query 3 query 100 close 7"
    assert merged.samples == [2, 2, 2, 1, 1, 1]


def test_the_order_of_the_trees_does_not_matter(outline):
    # Given
    trees = [outline(FIRST), outline(SECOND), prune(outline(FIRST), max_nodes=3)]

    # When
    merged = [merge(permutation) for permutation in itertools.permutations(trees)]

    # Then
    assert all(tree == merged[0] for tree in merged)


def test_equal_times_are_ordered_by_frame(outline, flat):
    # Given
    first = outline("""
        [request] 0
          b 5
          c 5
    """)
    second = outline("""
        [request] 0
          a 5
    """)

    # Then
    for trees in ([first, second], [second, first]):
        assert flat(merge(trees)) == "[request] 0 a 5 b 5 c 5"


def test_no_trees_are_a_lone_root(draw):
    assert draw(merge([])) == "[request] 0"


def test_trees_are_consumed_one_by_one(outline, draw):
    assert draw(merge(outline(FIRST) for _ in range(3))).split()[:2] == ["[request]", "3"]


def test_time_order_is_dropped(outline):
    assert merge([outline("[request] 5", order=[(0, 5)])]).order is None


def test_a_function_that_moved_to_another_line_is_another_function(outline):
    # Given
    before, after = outline(FIRST), outline(FIRST)
    after.frames = [frame._replace(line=8) if frame.line else frame for frame in after.frames]

    # When
    merged = merge([before, after])

    # Then
    merged.self_check()
    assert merged.node_count == 7


def test_equal_siblings_of_one_tree_become_one(outline, flat):
    tree = outline("""
        [request] 0
          view 1
            query 2
          view 4
            query 8
    """)

    assert flat(merge([tree])) == "[request] 0 view 5 query 10"


def test_a_frame_listed_twice_is_one_function(outline, flat):
    # Given
    tree = outline("""
        [request] 0
          view 1
          query 2
    """)
    tree.frames[2] = Frame(*tree.frames[1])

    # Then
    assert flat(merge([tree])) == "[request] 0 view 3"


def test_the_given_trees_stay_as_they_are(outline):
    first, second = outline(FIRST), outline(SECOND)

    merge([first, second])

    assert (first, second) == (outline(FIRST), outline(SECOND))


def test_a_thousand_trees_sum_up_exactly(outline):
    # Given
    first, second = outline(FIRST), outline(SECOND)

    # When
    merged = merge([first, second] * 500)

    # Then
    merged.self_check()
    assert merged.duration_us == 500 * (first.duration_us + second.duration_us)
    assert merged.node_count == 6
