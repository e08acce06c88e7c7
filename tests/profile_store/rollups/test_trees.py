"""Merged call trees: exact sums, bounded size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_pyinstrument.call_tree import CallTree, CallTreeBuilder, Frame, encode, hot_functions, merge
from profile_store.rollups import trees
from profile_store.rollups.trees import (
    MAX_TREE_BYTES,
    TreeMerger,
    hottest,
    pack_tree,
    sum_hot_functions,
    unpack_tree,
)

names = st.sampled_from(["view", "query", "render", "own_save"])
samples = st.lists(st.tuples(st.lists(names, max_size=4), st.integers(1, 50)), min_size=1, max_size=12)


def tree_of(stacks) -> CallTree:
    builder = CallTreeBuilder()
    for stack, hundredths in stacks:
        builder.add(stack, hundredths / 100)
    return builder.build(lambda name: Frame(name, f"shop/{name}.py", 1, name.startswith("own")))


@settings(max_examples=50)
@given(st.lists(samples, min_size=1, max_size=50))
def test_merging_many_in_steps_gives_what_merging_all_at_once_gives(many):
    # Given more trees than are merged at a time
    whole = [tree_of(stacks) for stacks in many]
    merger = TreeMerger()
    for tree in whole:
        merger.add_payload(encode(tree).payload)
    # Then it is their sum
    assert merger.tree() == merge(whole)
    assert (merger.profiles, merger.unusable) == (len(many), 0)


def test_a_merged_tree_is_pruned_to_its_size_and_keeps_its_sums():
    # Given trees with more functions in all than fit
    merger = TreeMerger()
    for request in range(60):
        stacks = [([f"view_{request}", f"function_{request}_{n}"], 1 + n % 3) for n in range(200)]
        merger.add(tree_of(stacks), 1)
    whole = merger.tree()
    # When it is stored and read
    packed = pack_tree(whole)
    read = unpack_tree(packed)
    # Then
    assert len(packed) <= MAX_TREE_BYTES
    assert read.node_count < whole.node_count
    assert (read.duration_us, read.sample_count) == (whole.duration_us, whole.sample_count)


def test_more_nodes_than_the_limit_are_folded_on_the_way(monkeypatch):
    monkeypatch.setattr(trees, "_MAX_NODES", 50)
    merger = TreeMerger()
    expected = 0
    for request in range(100):
        tree = tree_of([([f"function_{request}"], request + 1), (["view"], 500)])
        expected += tree.duration_us
        merger.add(tree, 1)
    assert merger.tree().node_count <= 50
    assert merger.tree().duration_us == expected


def test_a_damaged_profile_is_left_out_and_counted():
    merger = TreeMerger()
    merger.add_payload(b"damaged")
    merger.add_payload(encode(tree_of([(["view"], 1)])).payload)
    assert (merger.profiles, merger.unusable) == (1, 1)


def test_trees_of_longer_than_all_readers_understand_are_left_out():
    # Given many profiles of the longest duration that a payload may have
    longest = tree_of([(["view"], 1)])
    longest.self_us = [0, 2**43 - 1]
    merger = TreeMerger()
    for _ in range(1_000):
        merger.add(longest, 1)
    # Then what is merged can still be stored and read
    assert merger.unusable == 1_000 - merger.profiles > 0
    assert unpack_tree(pack_tree(merger.tree())).duration_us == merger.profiles * (2**43 - 1)


@given(st.lists(samples, min_size=1, max_size=5))
def test_hot_functions_of_parts_add_up(many):
    whole = [tree_of(stacks) for stacks in many]
    together = sum_hot_functions([hottest(tree) for tree in whole])
    assert {f.frame: f.self_us for f in together} == {
        f.frame: f.self_us for f in hot_functions(merge(whole), limit=1_000)
    }
    assert together == sorted(together, key=lambda f: (-f.self_us, f.frame))


@pytest.mark.parametrize("count", [0, 1])
def test_no_trees_or_empty_ones_give_a_root(count):
    merger = TreeMerger()
    for _ in range(count):
        merger.add(merge(()), 1)
    assert merger.tree().node_count == 1
