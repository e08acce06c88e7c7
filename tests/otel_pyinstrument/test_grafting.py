"""Grafting moves time from waiting to what was waited for, and changes no sum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame
from otel_pyinstrument.grafting import AWAIT, graft


def frame(name: str) -> Frame:
    return Frame(name, f"{name}.py", 1, True)


VIEW, CALL, WORK = frame("view"), frame("call"), frame("work")


def chain(*steps: tuple[Frame, int]) -> CallTree:
    """A tree of one path, with the self time of each of its nodes."""
    frames = [ROOT, *(step for step, _ in steps)]
    times = [0, *(self_us for _, self_us in steps)]
    numbers = range(len(frames))
    return CallTree(frames, [number - 1 for number in numbers], list(numbers), times, [0, *[1] * len(steps)])


def times(tree: CallTree) -> dict[str, int]:
    tree.self_check()
    return {tree.frames[tree.frame[node]].function: tree.self_us[node] for node in range(tree.node_count)}


def test_work_takes_its_time_from_the_wait_below_its_caller() -> None:
    waiting = chain((VIEW, 5), (CALL, 0), (AWAIT, 100))

    tree = graft(waiting, [([VIEW, CALL], chain((WORK, 70)))])

    assert times(tree) == {"[request]": 0, "view": 5, "call": 0, "[await]": 30, "work": 70}


def test_a_wait_that_is_used_up_leaves_no_empty_leaf() -> None:
    tree = graft(chain((VIEW, 5), (AWAIT, 70)), [([VIEW], chain((WORK, 70)))])

    assert times(tree) == {"[request]": 0, "view": 5, "work": 70}


def test_work_at_the_same_time_shares_the_wait_around_both() -> None:
    # Given two threads that were awaited together for 100, and worked 100 and 300
    hops = [([VIEW, CALL], chain((WORK, 100))), ([VIEW], chain((frame("other"), 300)))]

    tree = graft(chain((VIEW, 5), (AWAIT, 100)), hops)

    assert times(tree) == {"[request]": 0, "view": 5, "call": 0, "work": 25, "other": 75}


def test_work_that_nobody_waited_for_is_left_out() -> None:
    waiting = chain((VIEW, 5), (CALL, 10))

    assert times(graft(waiting, [([VIEW, CALL], chain((WORK, 70)))])) == {
        "[request]": 0,
        "view": 5,
        "call": 10,
    }


@given(
    waited=st.lists(st.integers(0, 1000), min_size=3, max_size=3),
    hops=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 1000)), max_size=8),
)
def test_no_sum_changes(waited: list[int], hops: list[tuple[int, int, int]]) -> None:
    # Given waits at several depths, and hops from several places
    path = [VIEW, CALL, frame("inner")]
    tree = CallTree(
        [ROOT, *path, AWAIT], [-1, 0, 1, 1, 3, 3], [0, 1, 4, 2, 4, 3], [0, 0, 0, 0, 0, 0], [0] * 6
    )
    tree.self_us[2], tree.self_us[4], tree.self_us[5] = waited
    tree.samples[:] = [0, 1, 1, 1, 1, 1]
    tree.self_check()

    grafted = graft(
        tree,
        [(path[:depth], chain((WORK, first), (frame("below"), second))) for depth, first, second in hops],
    )

    # Then the whole stays the same, and nothing is negative
    grafted.self_check()
    assert grafted.duration_us == tree.duration_us
