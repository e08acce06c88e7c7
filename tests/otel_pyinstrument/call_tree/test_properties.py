"""What holds for every tree and every payload, tried on random ones."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otel_pyinstrument.call_tree import (
    OTHER,
    ROOT,
    CallTree,
    CallTreeBuilder,
    Frame,
    InvalidPayload,
    decode,
    encode,
    hot_functions,
    merge,
    prune,
    summary,
)
from otel_pyinstrument.call_tree.text import printable

# On a busy machine a slow example says nothing.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

any_text = st.text(st.characters(exclude_categories=()), max_size=40)
clean_text = any_text.map(printable)


@st.composite
def call_trees(draw, text=clean_text, max_nodes=30):
    """A tree of any shape; few frames, so that recursion and equal siblings are common."""
    frame = st.builds(Frame, text, text, st.integers(0, 2**31), st.booleans()) | st.just(OTHER)
    frames = draw(st.lists(frame, min_size=1, max_size=6))
    tree = CallTree([ROOT], [-1], [0], [draw(st.integers(0, 1_000))], [draw(st.integers(0, 3))])
    path = [0]
    for node in range(1, draw(st.integers(1, max_nodes))):
        del path[draw(st.integers(1, len(path))) :]
        tree.parent.append(path[-1])
        tree.frame.append(draw(st.integers(1, min(len(tree.frames), len(frames)))))
        if tree.frame[-1] == len(tree.frames):
            tree.frames.append(frames[len(tree.frames) - 1])
        tree.self_us.append(draw(st.integers(0, 1_000) | st.sampled_from([0, 2**37])))
        tree.samples.append(draw(st.integers(0, 3)))
        path.append(node)
    if draw(st.booleans()):
        halves = [
            run for node, us in enumerate(tree.self_us) for run in ((node, us // 3), (node, us - us // 3))
        ]
        tree.order = draw(st.permutations(halves))
    tree.self_check()
    return tree


def time_by_path(tree: CallTree) -> Counter[tuple[tuple[Frame, ...], str]]:
    """Self time and samples per path of frames: what merging must keep, whatever the order of nodes."""
    paths: list[tuple[Frame, ...]] = []
    sums: Counter[tuple[tuple[Frame, ...], str]] = Counter()
    for node, above in enumerate(tree.parent):
        paths.append((paths[above] if node else ()) + (tree.frames[tree.frame[node]],))
        sums[paths[node], "us"] += tree.self_us[node]
        sums[paths[node], "samples"] += tree.samples[node]
    return sums


@unhurried
@given(call_trees())
def test_a_clean_tree_comes_back_equal(tree):
    assert decode(encode(tree).payload) == tree


@unhurried
@given(call_trees(text=any_text))
def test_any_tree_comes_back_with_its_shape_and_numbers(tree):
    # When
    decoded = decode(encode(tree).payload)

    # Then
    decoded.self_check()
    assert decoded == CallTree(
        decoded.frames, tree.parent, tree.frame, tree.self_us, tree.samples, tree.order
    )
    assert decode(encode(decoded).payload) == decoded


@settings(unhurried, max_examples=50)
@given(call_trees(text=st.text(max_size=600), max_nodes=60), st.integers(512, 3_000))
def test_any_budget_is_kept_and_the_total_stays(tree, max_bytes):
    # When
    encoded = encode(tree, max_bytes=max_bytes)

    # Then
    decoded = decode(encoded.payload)
    decoded.self_check()
    assert len(encoded.payload) <= max_bytes
    assert decoded.node_count == encoded.node_count
    assert (decoded.duration_us, decoded.sample_count) == (tree.duration_us, tree.sample_count)


@settings(unhurried, max_examples=200)
@given(call_trees(), st.integers(2, 30))
def test_pruning_keeps_every_sum_and_folds_the_smallest(tree, max_nodes):
    # Given: every node shows a frame of its own, so that it is found again
    tree.frames = [ROOT, *(Frame(f"f{node}", "", node, True) for node in range(1, tree.node_count))]
    tree.frame = list(range(tree.node_count))

    # When
    pruned = prune(tree, max_nodes=max_nodes)

    # Then
    pruned.self_check()
    assert pruned.node_count <= max_nodes
    totals, pruned_totals = tree.total_us(), pruned.total_us()
    original = {node: pruned.frames[frame].line for node, frame in enumerate(pruned.frame)}
    others = {node for node, frame in enumerate(pruned.frame) if pruned.frames[frame] == OTHER}
    kept = {original[node] for node in original if node not in others}
    for node in set(original) - others:
        assert pruned_totals[node] == totals[original[node]]
        assert not node or original[pruned.parent[node]] == tree.parent[original[node]]
    for node in others:
        above = original[pruned.parent[node]]
        folded = [child for child in tree.children(above) if child not in kept]
        assert pruned_totals[node] == sum(totals[child] for child in folded)
        assert sum(tree.subtree_end(child) - child for child in folded) > 1
    assert len(others) == len({pruned.parent[node] for node in others})
    with_other = {original[pruned.parent[node]] for node in others}
    chosen = {node for node in kept if tree.children(node) or tree.parent[node] in with_other}
    smallest_chosen = min((totals[node] for node in chosen), default=math.inf)
    assert all(totals[node] <= smallest_chosen for node in range(tree.node_count) if node not in kept)


@unhurried
@given(call_trees(), st.integers(1, 30))
def test_any_tree_is_pruned_to_any_size(tree, max_nodes):
    # When
    pruned = prune(tree, max_nodes=max_nodes)

    # Then
    pruned.self_check()
    assert pruned.node_count <= max_nodes
    assert (pruned.duration_us, pruned.sample_count) == (tree.duration_us, tree.sample_count)
    assert (pruned.order is None) == (tree.order is None)
    assert prune(pruned, max_nodes=max_nodes) is pruned


@unhurried
@given(st.lists(call_trees(), max_size=4), st.randoms(use_true_random=False))
def test_merging_adds_up_by_path_in_any_order(trees, random):
    # Given
    expected = sum((time_by_path(tree) for tree in trees), Counter())
    shuffled = random.sample(trees, len(trees))

    # When
    merged = merge(trees)

    # Then
    merged.self_check()
    assert +time_by_path(merged) == +expected
    assert merge(shuffled) == merged
    assert merge([merge(trees[:2]), merge(trees[2:])]) == merged


@unhurried
@given(call_trees())
def test_hot_functions_account_for_the_time_of_all_functions_once(tree):
    # When
    hot = hot_functions(tree, limit=100)

    # Then
    assert sum(function.self_us for function in hot) == tree.duration_us - tree.self_us[0]
    assert all(function.self_us > 0 and function.total_us <= tree.duration_us for function in hot)
    assert len({function.frame for function in hot}) == len(hot)


@unhurried
@given(call_trees(text=any_text))
def test_the_summary_of_any_tree_is_short_and_valid(tree):
    lines = summary(tree)

    assert len(lines) <= 10
    assert len("".join(lines).encode()) <= 1_500


stacks = st.lists(st.sampled_from("abc"), max_size=6)
times = st.floats(0, 10) | st.floats() | st.sampled_from([1e-7, 0.0101, 1 / 3])


@unhurried
@given(st.lists(st.tuples(stacks, times)), st.integers(1, 20), st.integers(0, 7), st.booleans())
def test_a_builder_keeps_all_time_and_samples_within_its_limits(samples, max_nodes, max_depth, time_order):
    # Given
    builder = CallTreeBuilder(max_nodes=max_nodes, max_depth=max_depth, time_order=time_order)
    total = 0.0

    # When
    for stack, seconds in samples:
        builder.add(stack, seconds)
        if seconds > 0 and total + seconds <= 8.64e6:
            total += seconds
    tree = builder.build(lambda name: Frame(name, "", 0, True))

    # Then
    tree.self_check()
    assert tree.duration_us == round(total * 1e6)
    assert tree.sample_count == builder.sample_count == len(samples)
    assert tree.node_count == builder.node_count <= max_nodes
    assert max(tree.depth()) <= max_depth


@unhurried
@given(st.lists(st.tuples(stacks, st.integers(0, 1_000))))
def test_prefix_reuse_gives_the_tree_that_no_reuse_gives(samples):
    # Given
    expected: Counter[tuple[str, ...]] = Counter()
    for stack, microseconds in samples:
        expected[tuple(stack)] += microseconds
    builder = CallTreeBuilder()

    # When
    for stack, microseconds in samples:
        builder.add(stack, microseconds / 1e6)

    # Then
    tree = builder.build(lambda name: Frame(name, "", 0, True))
    found = Counter(
        {
            tuple(frame.function for frame in path[1:]): number
            for (path, unit), number in time_by_path(tree).items()
            if unit == "us"
        }
    )
    assert +found == +expected


@unhurried
@given(st.binary(max_size=200))
@example(b"")
def test_random_bytes_are_refused_by_name(payload):
    assert isinstance(tree_or_refusal(payload), InvalidPayload)


@settings(unhurried, max_examples=200)
@given(call_trees(), st.data())
def test_a_payload_with_flipped_bytes_is_refused_or_still_a_tree(tree, data):
    # Given
    text = bytearray(zlib.decompress(encode(tree).payload))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))

    # When / Then
    check_refused_or_valid(zlib.compress(bytes(text)))


numbers = st.integers() | st.integers(-2, 3) | st.floats() | st.sampled_from([2**53, 2**63, 10**30, 1.0, 0.0])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(any_text, values, max_size=3),
    max_leaves=8,
)


@settings(unhurried, max_examples=200)
@given(call_trees(), st.data())
def test_a_document_with_a_changed_member_is_refused_or_still_a_tree(tree, data):
    # Given
    document = json.loads(zlib.decompress(encode(tree).payload))
    container = data.draw(st.sampled_from([document, document["frames"], document["nodes"]]))
    key = data.draw(st.sampled_from(sorted(container)))
    if isinstance(container[key], list) and container[key] and data.draw(st.booleans()):
        container[key][data.draw(st.integers(0, len(container[key]) - 1))] = data.draw(json_values)
    else:
        container[key] = data.draw(json_values)

    # When / Then
    check_refused_or_valid(zlib.compress(json.dumps(document).encode()))


def check_refused_or_valid(payload: bytes) -> None:
    result = tree_or_refusal(payload)
    if isinstance(result, InvalidPayload):
        assert len(str(result)) < 300
        return
    result.self_check()
    again = decode(encode(result).payload)
    assert (again.parent, again.self_us, again.samples) == (result.parent, result.self_us, result.samples)


def tree_or_refusal(payload: bytes) -> CallTree | InvalidPayload:
    """Anything else that `decode` raises fails the test."""
    try:
        return decode(payload)
    except InvalidPayload as error:
        return error
