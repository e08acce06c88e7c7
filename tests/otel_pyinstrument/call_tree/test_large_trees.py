from __future__ import annotations

import random

import pytest

from otel_pyinstrument.call_tree import (
    ROOT,
    CallTree,
    CallTreeBuilder,
    Frame,
    decode,
    encode,
    hot_functions,
    merge,
    prune,
)

NODES = 100_000


def describe(name: str) -> Frame:
    return Frame(name, f"shop/{name}.py", 1, True)


@pytest.fixture(scope="module")
def large_tree() -> CallTree:
    rng = random.Random(1)
    builder = CallTreeBuilder(max_nodes=NODES, time_order=True)
    stack: list[str] = []
    while builder.node_count < NODES:
        del stack[rng.randrange(len(stack) + 1) :]
        stack += [f"f{rng.randrange(500)}" for _ in range(rng.randrange(30))]
        builder.add(stack[:100], 0.001)
    tree = builder.build(describe)
    tree.self_check()
    return tree


def chain(depth: int) -> CallTree:
    count = depth + 1
    tree = CallTree(
        [ROOT, describe("fib")], list(range(-1, depth)), [0, *[1] * depth], [1] * count, [1] * count
    )
    tree.self_check()
    return tree


def test_100_000_nodes_are_encoded_and_decoded_whole(large_tree):
    # When
    encoded = encode(large_tree, max_bytes=1 << 20)

    # Then
    assert decode(encoded.payload) == large_tree
    assert large_tree.node_count == NODES


def test_100_000_nodes_are_pruned_into_the_default_budget(large_tree):
    # When
    encoded = encode(large_tree)

    # Then
    decoded = decode(encoded.payload)
    decoded.self_check()
    assert len(encoded.payload) <= 65_536
    assert (decoded.duration_us, decoded.sample_count) == (large_tree.duration_us, large_tree.sample_count)


def test_100_000_nodes_are_pruned(large_tree):
    pruned = prune(large_tree, max_nodes=1_000)

    pruned.self_check()
    assert pruned.node_count <= 1_000
    assert pruned.duration_us == large_tree.duration_us


def test_100_000_nodes_are_merged(large_tree):
    merged = merge([large_tree, large_tree])

    merged.self_check()
    assert merged.node_count == NODES
    assert merged.duration_us == 2 * large_tree.duration_us


def test_100_000_nodes_are_searched_for_hot_functions(large_tree):
    in_functions_us = large_tree.duration_us - large_tree.self_us[0]

    assert sum(hot.self_us for hot in hot_functions(large_tree, limit=1_000)) == in_functions_us


@pytest.mark.parametrize("depth", [2_000, 9_999])
def test_depth_is_no_problem_to_any_transform(depth):
    # Given
    tree = chain(depth)

    # When
    decoded = decode(encode(tree, max_bytes=1 << 20).payload)
    pruned = prune(tree, max_nodes=depth // 2)
    merged = merge([tree, tree])

    # Then
    for result in (decoded, pruned, merged):
        result.self_check()
    assert decoded == tree
    assert pruned.duration_us == tree.duration_us
    assert max(pruned.depth()) == depth // 2 - 1
    assert merged.self_us == [2] * (depth + 1)
    assert hot_functions(tree)[0].total_us == depth


def test_a_builder_takes_any_depth_that_it_is_allowed():
    # Given
    builder = CallTreeBuilder(max_depth=50_000, max_nodes=50_001)

    # When
    builder.add(["fib"] * 60_000, 1)

    # Then
    tree = builder.build(describe)
    tree.self_check()
    assert max(tree.depth()) == 50_000
    assert builder.truncated


def test_a_node_with_100_000_children_is_no_problem():
    # Given
    frames = [ROOT, *(describe(f"f{index}") for index in range(NODES))]
    tree = CallTree(frames, [-1, *[0] * NODES], list(range(NODES + 1)), [1] * (NODES + 1), [1] * (NODES + 1))
    tree.self_check()

    # When
    encoded = encode(tree)
    merged = merge([tree, tree])

    # Then
    assert decode(encoded.payload).duration_us == NODES + 1
    assert merged.node_count == NODES + 1
