from __future__ import annotations

from otel_pyinstrument.base import calling_codes, shared_calls, without_base
from otel_pyinstrument.call_tree import CallTree, CallTreeBuilder, Frame


def frame(name: str) -> Frame:
    return Frame(name, "app.py", ord(name[-1]), True)


def tree(*stacks: str) -> CallTree:
    """A tree from stacks such as `a b c`, one millisecond each."""
    builder = CallTreeBuilder()
    for stack in stacks:
        builder.add(stack.split(), 0.001)
    return builder.build(frame)


def shown(tree: CallTree) -> list[tuple[int, str, int]]:
    tree.self_check()
    return [
        (depth, tree.frames[index].function, samples)
        for depth, index, samples in zip(tree.depth(), tree.frame, tree.samples, strict=True)
    ]


def test_the_calls_around_a_request_are_cut() -> None:
    cut = without_base(tree("a b f", "a b f g", "a b f h"), [frame("a"), frame("b")])

    assert shown(cut) == [(0, "[request]", 0), (1, "f", 1), (2, "g", 1), (2, "h", 1)]
    assert cut.duration_us == 3000
    assert len(cut.frames) == 4


def test_a_class_in_the_sample_does_not_matter() -> None:
    with_class = [Frame("Server.a", "app.py", ord("a"), True)]

    assert shown(without_base(tree("a f"), with_class)) == [(0, "[request]", 0), (1, "f", 1)]


def test_a_call_that_not_all_samples_share_stays() -> None:
    assert shown(without_base(tree("a b", "a c", "d"), [frame("a"), frame("b")])) == shown(
        tree("a b", "a c", "d")
    )
    assert shown(without_base(tree("a b", "a c"), [frame("a"), frame("b")])) == [
        (0, "[request]", 0),
        (1, "b", 1),
        (1, "c", 1),
    ]


def test_a_call_with_time_of_its_own_stays() -> None:
    assert shown(without_base(tree("a b", "a"), [frame("a")])) == shown(tree("a b", "a"))


def test_other_calls_than_the_base_stay() -> None:
    assert shown(without_base(tree("x y"), [frame("a"), frame("b")])) == shown(tree("x y"))


def test_a_base_longer_than_the_tree_leaves_the_leaf() -> None:
    assert shown(without_base(tree("a b"), [frame("a"), frame("b"), frame("c")])) == [
        (0, "[request]", 0),
        (1, "b", 1),
    ]


def test_nothing_to_cut_is_no_problem() -> None:
    assert shown(without_base(CallTreeBuilder().build(frame), [frame("a")])) == [(0, "[request]", 0)]
    assert shown(without_base(tree("a b"), [])) == shown(tree("a b"))


def test_the_calling_functions_are_named_outermost_first() -> None:
    def inner() -> list[str]:
        return [code.co_name for code in calling_codes()]

    assert inner()[-3:] == ["test_the_calling_functions_are_named_outermost_first", "inner", "calling_codes"]


def test_shared_calls_end_where_the_stacks_part() -> None:
    one, two, three = compile("1", "a", "eval"), compile("2", "b", "eval"), compile("3", "c", "eval")

    assert shared_calls([one, two], [one, three]) == [one]
    assert shared_calls([one], [one, three]) == [one]
    assert shared_calls([], [one]) == []
