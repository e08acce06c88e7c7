from __future__ import annotations

import json
import random
import zlib

import pytest

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame, decode, encode

SHOP = """
    [request] 1
      view 10
        lib_execute 100
        render 5
          view 3
"""


def wide_tree(count: int, *, name_bytes: int = 10, seed: int = 1) -> CallTree:
    """Many different functions with incompressible names below one view."""
    rng = random.Random(seed)
    names = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=name_bytes)) for _ in range(count)]
    frames = [ROOT, Frame("view", "shop.py", 1, True), *(Frame(name, name, 1, False) for name in names)]
    self_us = [0, 0, *(rng.randrange(1, 10**6) for _ in range(count))]
    tree = CallTree(frames, [-1, 0, *[1] * count], list(range(count + 2)), self_us, [1] * (count + 2))
    tree.self_check()
    return tree


def test_the_payload_is_the_documented_json(outline):
    # When
    encoded = encode(outline(SHOP, order=[(0, 1), (1, 10), (2, 100), (3, 5), (4, 3)]))

    # Then
    assert json.loads(zlib.decompress(encoded.payload)) == {
        "v": 1,
        "strings": ["[request]", "", "view", "shop/orders.py", "lib_execute", "render"],
        "frames": {
            "function": [0, 2, 4, 5],
            "file": [1, 3, 3, 3],
            "line": [0, 7, 7, 7],
            "own": [0, 1, 0, 1],
        },
        "nodes": {
            "parent": [-1, 0, 1, 1, 3],
            "frame": [0, 1, 2, 3, 1],
            "self_us": [1, 10, 100, 5, 3],
            "samples": [1, 1, 1, 1, 1],
        },
        "order": [0, 1, 1, 10, 2, 100, 3, 5, 4, 3],
    }
    assert (encoded.node_count, encoded.pruned) == (5, False)


def test_what_was_encoded_is_decoded(outline):
    tree = outline(SHOP)

    assert decode(encode(tree).payload) == tree


@pytest.mark.parametrize(("count", "window_bytes"), [(1, 512), (30, 2_048), (5_000, 32_768)])
def test_the_window_of_a_payload_holds_its_text_and_little_more(count, window_bytes):
    # When
    payload = encode(wide_tree(count), max_bytes=1 << 20).payload

    # Then: RFC 1950 has the window in the first four bits
    assert 1 << ((payload[0] >> 4) + 8) == window_bytes
    assert len(zlib.decompress(payload)) < window_bytes or window_bytes == 32_768


@pytest.mark.parametrize(
    ("name", "read_as"),
    [
        ("bestellungen_für_日本_🛒", "bestellungen_für_日本_🛒"),
        ("caf\udce9\ud800", r"caf\udce9\ud800"),
        ("nul\x00esc\x1b", r"nul\x00esc\x1b"),
        ('quote"back\\slash', 'quote"back\\slash'),
        ("<script>alert(1)</script>\u202e", "<script>alert(1)</script>\u202e"),
        ("", ""),
        ("x" * 10_240, "x" * 509 + "…"),
    ],
)
def test_hostile_names_survive_visibly(name, read_as):
    # Given
    tree = CallTree([ROOT, Frame(name, name, 1, True)], [-1, 0], [0, 1], [0, 5], [0, 1])
    tree.self_check()

    # When
    decoded = decode(encode(tree).payload)

    # Then
    decoded.self_check()
    assert decoded.frames[1].function == read_as
    assert len(decoded.frames[1].file.encode()) <= 512
    assert decode(encode(decoded).payload) == decoded


def test_names_that_escape_or_cut_to_the_same_text_stay_two_nodes():
    # Given
    frames = [ROOT, Frame("x" * 10_000, "a", 1, True), Frame("x" * 10_001, "a", 1, True)]
    tree = CallTree(frames, [-1, 0, 0], [0, 1, 2], [0, 5, 6], [0, 1, 1])

    # When
    decoded = decode(encode(tree).payload)

    # Then
    decoded.self_check()
    assert decoded.self_us == [0, 5, 6]


@pytest.mark.parametrize("max_bytes", [512, 1_000, 4_096, 20_000, 65_536])
def test_a_tree_too_large_is_pruned_into_the_budget_and_uses_it(max_bytes):
    # Given
    tree = wide_tree(8_000)

    # When
    encoded = encode(tree, max_bytes=max_bytes)

    # Then
    decoded = decode(encoded.payload)
    decoded.self_check()
    assert 0.8 * max_bytes <= len(encoded.payload) <= max_bytes
    assert encoded.pruned
    assert encoded.node_count == decoded.node_count < tree.node_count
    assert (decoded.duration_us, decoded.sample_count) == (tree.duration_us, tree.sample_count)


def test_the_heaviest_functions_are_those_that_stay():
    # Given
    tree = wide_tree(8_000)
    by_weight = sorted(tree.self_us, reverse=True)

    # When
    decoded = decode(encode(tree, max_bytes=4_096).payload)

    # Then
    kept = sorted(
        (
            us
            for us, frame in zip(decoded.self_us, decoded.frame, strict=True)
            if decoded.frames[frame].function != "[other]"
        ),
        reverse=True,
    )
    kept = [us for us in kept if us]
    assert len(kept) > 50
    assert kept == by_weight[: len(kept)]


def test_time_order_goes_before_any_node_does():
    # Given
    tree = wide_tree(500)
    rng = random.Random(1)
    shuffled = [(node, us) for node, us in enumerate(tree.self_us) for us in (us // 2, us - us // 2)]
    rng.shuffle(shuffled)
    tree.order = shuffled
    tree.self_check()
    whole = len(encode(tree).payload)

    # When
    encoded = encode(tree, max_bytes=whole - 1)

    # Then
    decoded = decode(encoded.payload)
    assert (decoded.order, decoded.self_us) == (None, tree.self_us)
    assert not encoded.pruned
    assert tree.order is shuffled


@pytest.mark.parametrize("max_bytes", [512, 2_000, 10_000])
def test_a_few_huge_names_are_shortened_instead_of_losing_every_node(max_bytes):
    # Given
    tree = wide_tree(30, name_bytes=10_000)

    # When
    encoded = encode(tree, max_bytes=max_bytes)

    # Then
    decoded = decode(encoded.payload)
    decoded.self_check()
    assert len(encoded.payload) <= max_bytes
    assert encoded.pruned
    assert decoded.node_count > 5
    assert decoded.duration_us == tree.duration_us


def test_long_names_at_the_top_are_kept_before_many_short_ones():
    # Given: the size is far from proportional to the number of nodes
    tree = wide_tree(60, name_bytes=500)
    tree.self_us = [10**6 if us else 0 for us in tree.self_us]
    light = 30_000
    tree.frames.append(Frame("loop", "", 1, True))
    tree.parent += [1] * light
    tree.frame += [len(tree.frames) - 1] * light
    tree.self_us += [node * 7919 % 1_000 for node in range(light)]
    tree.samples += [1] * light
    tree.self_check()

    # When
    encoded = encode(tree, max_bytes=12_000)

    # Then
    decoded = decode(encoded.payload)
    decoded.self_check()
    assert len(encoded.payload) <= 12_000
    assert {len(frame.function) for frame in decoded.frames if frame.file} == {4, 500}


def test_json_that_no_reader_would_unpack_is_pruned_although_it_compresses_well():
    # Given
    count = 66_000
    frames = [ROOT, *(Frame(f"{'x' * 500}{index}", "", 1, True) for index in range(count))]
    nodes = range(count + 1)
    tree = CallTree(frames, [-1, *[0] * count], list(nodes), [1 for _ in nodes], [1 for _ in nodes])

    # When
    encoded = encode(tree, max_bytes=1 << 20)

    # Then
    assert encoded.pruned
    assert decode(encoded.payload).duration_us == count + 1


def test_the_largest_numbers_fit_the_smallest_budget():
    # Given
    tree = wide_tree(3, name_bytes=10_000)
    tree.self_us = [2**53 - 4, 1, 1, 0, 1]
    tree.self_check()

    # When
    encoded = encode(tree, max_bytes=512)

    # Then
    assert len(encoded.payload) <= 512


def test_a_budget_that_no_payload_can_meet_is_refused(outline):
    with pytest.raises(ValueError, match="max_bytes is 511"):
        encode(outline(SHOP), max_bytes=511)


def test_a_tree_deeper_than_readers_accept_is_folded_at_their_limit():
    # Given
    count = 15_000
    tree = CallTree(
        [ROOT, Frame("fib", "fib.py", 1, True)],
        list(range(-1, count - 1)),
        [0] + [1] * (count - 1),
        [1] * count,
        [1] * count,
        [(node, 1) for node in range(count)],
    )
    tree.self_check()

    # When
    encoded = encode(tree, max_bytes=1 << 20)

    # Then
    decoded = decode(encoded.payload)
    decoded.self_check()
    assert max(decoded.depth()) == 10_000
    assert (decoded.duration_us, encoded.pruned) == (count, True)
    assert decoded.order is not None


def test_frames_that_no_node_shows_are_not_sent(outline):
    # Given
    tree = outline(SHOP)
    tree.frames += [Frame(f"unused_{index}", "", 0, False) for index in range(10_000)]
    tree.self_check()

    # When
    encoded = encode(tree)

    # Then
    assert decode(encoded.payload) == outline(SHOP)
    assert not encoded.pruned


def test_more_nodes_and_frames_than_readers_accept_are_pruned():
    # Given
    count = 100_500
    tree = CallTree(
        [ROOT, *(Frame(f"f{index}", "", 0, False) for index in range(count - 1))],
        [-1, *[0] * (count - 1)],
        list(range(count)),
        [1] * count,
        [1] * count,
    )

    # When
    encoded = encode(tree, max_bytes=16 << 20)

    # Then
    decoded = decode(encoded.payload)
    assert len(decoded.frames) <= 100_000
    assert decoded.duration_us == count
    assert encoded.pruned
