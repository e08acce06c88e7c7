from __future__ import annotations

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame, hot_functions, summary


def times(tree, **arguments):
    return [(hot.frame.function, hot.self_us, hot.total_us) for hot in hot_functions(tree, **arguments)]


def test_library_time_is_charged_to_the_nearest_own_code(outline):
    tree = outline("""
        [request] 3
          lib_dispatch 20
            view 100
              lib_execute 1000
                [await] 500
              render 7
                lib_template 30
                  tag 4
    """)

    assert times(tree) == [
        ("view", 1600, 1641),
        ("render", 37, 41),
        ("lib_dispatch", 20, 1661),
        ("tag", 4, 4),
    ]


def test_time_of_the_root_is_charged_to_no_function(outline):
    assert times(outline("[request] 7")) == []


def test_samples_are_charged_like_time(outline):
    tree = outline("""
        [request] 0
          view 1
            lib_execute 1
              lib_send 1
    """)

    assert [hot.samples for hot in hot_functions(tree)] == [3]


def test_a_recursive_function_counts_its_inclusive_time_once(outline):
    tree = outline("""
        [request] 0
          fib 1
            fib 2
              lib_add 4
                fib 8
          view 16
            fib 32
    """)

    assert times(tree) == [("fib", 47, 47), ("view", 16, 48)]


def test_functions_without_time_are_left_out_and_the_limit_holds(outline):
    tree = outline("""
        [request] 0
          idle 0
          c 5
          a 5
          b 6
    """)

    assert [name for name, _, _ in times(tree)] == ["b", "a", "c"]
    assert [name for name, _, _ in times(tree, limit=1)] == ["b"]


def test_the_summary_reads_as_share_function_and_place(outline):
    tree = outline("""
        [request] 100
          load_orders 250
            lib_execute 650
    """)

    assert summary(tree) == ["90% load_orders shop/orders.py:7"]


def test_shares_that_round_to_nothing_are_left_out(outline):
    tree = outline("""
        [request] 0
          view 995
          query 5
          close 4
    """)

    assert summary(tree) == ["99% view shop/orders.py:7"]


def test_a_tree_without_time_has_an_empty_summary(outline):
    assert summary(outline("[request] 0")) == []


def test_the_summary_is_bounded_and_printable_whatever_the_names_are():
    # Given
    frames = [
        Frame(f"{index}\x00\ud800" + "日" * 10_000, "ü/" * 5_000, 2**53 - 1, True) for index in range(12)
    ]
    tree = CallTree([ROOT, *frames], [-1, *[0] * 12], list(range(13)), [1] * 13, [1] * 13)
    tree.self_check()

    # When
    lines = summary(tree)

    # Then
    assert len(lines) == 10
    assert len("".join(lines).encode()) <= 1_500
    assert "\x00" not in "".join(lines)
