from __future__ import annotations

import math

import pytest

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame


def describe(name: str) -> Frame:
    return Frame(name, "shop/orders.py", 7, True)


def built(builder: CallTreeBuilder, describe=describe):
    tree = builder.build(describe)
    tree.self_check()
    assert tree.duration_us == sum(tree.self_us)
    return tree


def test_samples_become_a_tree_in_order_of_first_appearance(draw):
    # Given
    builder = CallTreeBuilder()

    # When
    builder.add(["view", "query", "send"], 0.5)
    builder.add(["view", "render"], 0.25)
    builder.add(["view", "query", "receive"], 0.125)
    builder.add([], 0.0625)
    builder.add(["view"], 0.03125)
    builder.add(["view", "query", "send"], 1)

    # Then
    tree = built(builder)
    assert draw(tree).splitlines() == [
        "[request] 62500",
        "  view 31250",
        "    query 0",
        "      send 1500000",
        "      receive 125000",
        "    render 250000",
    ]
    assert tree.samples == [1, 1, 0, 2, 1, 1]
    assert builder.sample_count == tree.sample_count == 6
    assert builder.node_count == tree.node_count == 6
    assert not builder.truncated


def test_nothing_sampled_is_a_lone_root(draw):
    assert draw(built(CallTreeBuilder())) == "[request] 0"


@pytest.mark.parametrize("length", range(26))
def test_the_shared_prefix_is_found_wherever_two_stacks_part(length):
    # Given
    builder = CallTreeBuilder()
    stack = [f"f{index}" for index in range(25)]

    # When
    builder.add(stack, 1)
    builder.add([*stack[:length], "elsewhere"], 1)
    builder.add(stack, 1)

    # Then
    tree = built(builder)
    elsewhere = [tree.frames[frame].function for frame in tree.frame].index("elsewhere")
    assert tree.depth()[elsewhere] == length + 1
    assert tree.node_count == 27
    assert sorted(tree.self_us)[-2:] == [1_000_000, 2_000_000]


@pytest.mark.parametrize("kind", [list, tuple])
def test_any_sequence_is_a_stack_and_may_be_reused_by_the_caller(kind, flat):
    # Given
    builder = CallTreeBuilder()
    stack = ["view", "query"]

    # When
    builder.add(kind(stack), 1)
    stack.append("send")
    builder.add(kind(stack), 1)
    builder.add(kind(stack), 1)
    stack[:] = ["view"]
    builder.add(kind(stack), 1)

    # Then
    assert flat(built(builder)) == "[request] 0 view 1000000 query 1000000 send 2000000"


def test_the_same_list_changed_in_place_is_a_new_stack():
    # Given
    builder = CallTreeBuilder()
    stack = ["view", "query"]
    builder.add(stack, 1)

    # When
    stack[1] = "render"
    builder.add(stack, 1)

    # Then
    assert builder.node_count == 4


@pytest.mark.parametrize("seconds", [0.0000004, 1 / 3, 0.0101, 1e-9, 0.00999999])
def test_fractions_of_a_microsecond_are_carried_not_lost(seconds):
    # Given
    builder = CallTreeBuilder(time_order=True)
    total = 0.0

    # When
    for index in range(10_000):
        builder.add(["view", f"f{index % 7}"], seconds)
        total += seconds

    # Then
    assert built(builder).duration_us == round(total * 1e6)


@pytest.mark.parametrize("seconds", [-1, -0.0, 0, math.nan, math.inf, -math.inf, 1e300])
def test_what_is_no_positive_time_counts_as_a_sample_without_time(seconds):
    # Given
    builder = CallTreeBuilder(time_order=True)
    builder.add(["view"], 1)

    # When
    builder.add(["view", "query"], seconds)
    builder.add(["view"], 1)

    # Then
    tree = built(builder)
    assert (tree.self_us, tree.samples) == ([0, 2_000_000, 0], [0, 2, 1])


def test_time_beyond_the_depth_limit_goes_to_the_deepest_node(flat):
    # Given
    builder = CallTreeBuilder(max_depth=2)

    # When
    builder.add(["a", "b"], 1)
    assert not builder.truncated
    builder.add(["a", "b", "c", "d"], 1)
    builder.add(["a", "b", "c", "e"], 1)
    builder.add(["a"], 1)

    # Then
    assert flat(built(builder)) == "[request] 0 a 1000000 b 3000000"
    assert builder.truncated


def test_time_beyond_the_node_limit_goes_to_the_deepest_existing_node(flat):
    # Given
    builder = CallTreeBuilder(max_nodes=3)

    # When
    builder.add(["a", "b"], 1)
    assert not builder.truncated
    builder.add(["a", "c", "b"], 1)
    builder.add(["a", "c", "b"], 1)
    builder.add(["a", "c", "d"], 1)
    builder.add(["a", "b", "e"], 1)
    builder.add(["f"], 1)
    builder.add(["a", "b"], 1)

    # Then
    assert flat(built(builder)) == "[request] 1000000 a 3000000 b 3000000"
    assert (builder.truncated, builder.node_count) == (True, 3)


def test_what_follows_a_call_without_a_node_is_not_taken_for_its_parents_child(flat):
    # Given
    builder = CallTreeBuilder(max_nodes=3)
    builder.add(["a", "c"], 1)
    builder.add(["a", "x", "y"], 1)

    # When
    builder.add(["a", "x", "c"], 1)

    # Then
    assert flat(built(builder)) == "[request] 0 a 2000000 c 1000000"


def test_limits_without_room_for_a_stack_give_all_time_to_the_root(draw):
    for builder in (CallTreeBuilder(max_nodes=1), CallTreeBuilder(max_depth=0)):
        builder.add(["a", "b"], 1)
        assert draw(built(builder)) == "[request] 1000000"
        assert builder.truncated


@pytest.mark.parametrize("limits", [{"max_nodes": 0}, {"max_depth": -1}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        CallTreeBuilder(**limits)


def test_time_order_tells_when_each_node_ran():
    # Given
    builder = CallTreeBuilder(time_order=True)

    # When
    for stack in (["a"], ["a"], ["a", "b"], [], ["a"]):
        builder.add(stack, 1e-6)
    builder.add(["b"], 0)

    # Then
    tree = built(builder)
    assert [tree.frames[frame].function for frame in tree.frame] == ["[request]", "a", "b", "b"]
    assert tree.order == [(1, 2), (2, 1), (0, 1), (1, 1)]


def test_time_order_is_given_up_before_it_grows_without_bound():
    # Given
    builder = CallTreeBuilder(time_order=True, max_nodes=3)

    # When
    for _ in range(7):
        builder.add(["a"], 1e-6)
        builder.add(["b"], 1e-6)

    # Then
    tree = built(builder)
    assert (tree.order, tree.self_us) == (None, [0, 7, 7])


def test_no_time_order_unless_asked_for():
    builder = CallTreeBuilder()
    builder.add(["a"], 1)

    assert built(builder).order is None


def test_the_key_decides_what_is_the_same_function(flat):
    # Given
    builder = CallTreeBuilder(key=lambda name: name.partition("@")[0])

    # When
    builder.add(["view@1", "query@1"], 1)
    builder.add(["view@2", "query@1"], 1)
    builder.add(["view@2", "query@9"], 1)
    builder.add(["view@3"], 1)

    # Then
    assert flat(built(builder)) == "[request] 0 view 1000000 query 3000000"


def test_names_described_alike_become_one_node_among_siblings(flat):
    # Given
    builder = CallTreeBuilder(time_order=True)
    builder.add(["Order.save", "send"], 1e-6)
    builder.add(["Invoice.save", "send"], 1e-6)
    builder.add(["Order.save", "sign"], 1e-6)

    # When
    tree = built(builder, lambda name: describe(name.rpartition(".")[2]))

    # Then
    assert flat(tree) == "[request] 0 save 0 send 2 sign 1"
    assert tree.order == [(2, 1), (2, 1), (3, 1)]


def test_a_function_with_several_callers_has_one_node_below_each(draw):
    # Given
    builder = CallTreeBuilder()

    # When each caller and the function itself call it again and again
    for _ in range(2):
        builder.add(["list", "load"], 1)
        builder.add(["show", "load", "load"], 1)
        builder.add(["show", "load"], 1)
        builder.add(["load"], 1)

    # Then
    assert draw(built(builder)).splitlines() == [
        "[request] 0",
        "  list 0",
        "    load 2000000",
        "  show 0",
        "    load 2000000",
        "      load 2000000",
        "  load 2000000",
    ]


def test_nodes_come_out_in_preorder_whatever_the_order_of_samples(draw):
    # Given
    builder = CallTreeBuilder(time_order=True)

    # When a sample is of a branch that an earlier one had left
    for stack in (["view", "query"], ["render", "write"], ["view", "query", "send"], ["render"], ["view"]):
        builder.add(stack, 1)

    # Then
    tree = built(builder)
    assert draw(tree).splitlines() == [
        "[request] 0",
        "  view 1000000",
        "    query 1000000",
        "      send 1000000",
        "  render 1000000",
        "    write 1000000",
    ]
    assert [frame.function for frame in tree.frames] == [
        "[request]", "view", "query", "send", "render", "write"
    ]  # fmt: skip
    assert tree.order == [(2, 1_000_000), (5, 1_000_000), (3, 1_000_000), (4, 1_000_000), (1, 1_000_000)]


def test_building_twice_shows_what_was_added_between():
    # Given
    builder = CallTreeBuilder(time_order=True)
    builder.add(["a"], 1)
    first = built(builder)

    # When
    builder.add(["a", "b"], 1)

    # Then
    assert (first.node_count, built(builder).node_count) == (2, 3)
    assert first.duration_us == 1_000_000


def test_a_stack_entry_that_cannot_be_used_leaves_the_builder_consistent(flat):
    # Given
    builder = CallTreeBuilder()
    builder.add(["a", "b"], 1)

    # When
    with pytest.raises(TypeError):
        builder.add(["a", ["unhashable"]], 1)
    builder.add(["a", "c"], 1)

    # Then
    assert flat(built(builder)) == "[request] 0 a 0 b 1000000 c 1000000"


def test_recursion_2_000_deep_is_kept_by_default():
    # Given
    builder = CallTreeBuilder()

    # When
    builder.add(["fib"] * 2_000, 1)

    # Then
    assert max(built(builder).depth()) == 2_000
    assert not builder.truncated
