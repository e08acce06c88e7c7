from __future__ import annotations

import json
import pickle
import tracemalloc
import typing
import zlib

import pytest

from otel_pyinstrument.call_tree import (
    DEFAULT_LIMITS,
    ROOT,
    CallTree,
    Frame,
    InvalidPayload,
    InvalidReason,
    Limits,
    decode,
)


def document(**changes):
    """A correct document of 3 nodes; `nodes__parent=...` replaces `nodes.parent`, None removes a member."""
    correct = {
        "v": 1,
        "strings": ["[request]", "", "view", "shop.py"],
        "frames": {"function": [0, 2], "file": [1, 3], "line": [0, 7], "own": [0, 1]},
        "nodes": {"parent": [-1, 0, 1], "frame": [0, 1, 1], "self_us": [1, 2, 3], "samples": [0, 1, 1]},
        "order": [0, 1, 1, 2, 2, 3],
    }
    for name, value in changes.items():
        container, _, key = name.rpartition("__")
        members = correct[container] if container else correct
        if value is None:
            del members[key]
        else:
            members[key] = value
    return correct


def packed(value) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return zlib.compress(text)


def refusal(payload, limits=DEFAULT_LIMITS) -> InvalidPayload:
    with pytest.raises(InvalidPayload) as caught:
        decode(payload, limits=limits)
    assert caught.value.reason in typing.get_args(InvalidReason)
    assert len(str(caught.value)) < 300
    return caught.value


def test_a_correct_document_is_read():
    tree = decode(packed(document()))

    tree.self_check()
    assert tree == CallTree(
        [ROOT, Frame("view", "shop.py", 7, True)],
        [-1, 0, 1],
        [0, 1, 1],
        [1, 2, 3],
        [0, 1, 1],
        [(0, 1), (1, 2), (2, 3)],
    )


def test_members_that_this_reader_does_not_know_are_ignored():
    value = document(memory=[1, 2, 3], nodes__calls=[1, 1, 1], frames__column={"a": [None, 1.5, True]})

    assert decode(packed(value)) == decode(packed(document()))


def test_time_order_may_be_absent():
    assert decode(packed(document(order=None))).order is None


@pytest.mark.parametrize(
    ("reason", "field", "changes"),
    [
        ("missing_field", "v", {"v": None}),
        ("unsupported_version", "v", {"v": 2}),
        ("unsupported_version", "v", {"v": 0}),
        ("unsupported_version", "v", {"v": True}),
        ("unsupported_version", "v", {"v": 1.0}),
        ("unsupported_version", "v", {"v": "1"}),
        ("unsupported_version", "v", {"v": [1]}),
        ("missing_field", "strings", {"strings": None}),
        ("missing_field", "frames", {"frames": None}),
        ("missing_field", "nodes", {"nodes": None}),
        ("missing_field", "frames.function", {"frames__function": None}),
        ("missing_field", "frames.file", {"frames__file": None}),
        ("missing_field", "frames.line", {"frames__line": None}),
        ("missing_field", "frames.own", {"frames__own": None}),
        ("missing_field", "nodes.parent", {"nodes__parent": None}),
        ("missing_field", "nodes.frame", {"nodes__frame": None}),
        ("missing_field", "nodes.self_us", {"nodes__self_us": None}),
        ("missing_field", "nodes.samples", {"nodes__samples": None}),
        ("wrong_type", "strings", {"strings": {"0": "[request]"}}),
        ("wrong_type", "strings", {"strings": ["[request]", "", "view", 7]}),
        ("wrong_type", "strings", {"strings": ["[request]", "", ["view"], "shop.py"]}),
        ("wrong_type", "frames", {"frames": []}),
        ("wrong_type", "nodes", {"nodes": "parent"}),
        ("wrong_type", "nodes.parent", {"nodes__parent": 7}),
        ("wrong_type", "nodes.parent", {"nodes__parent": [-1, 0, 1.0]}),
        ("wrong_type", "nodes.self_us", {"nodes__self_us": [1, 2, True]}),
        ("wrong_type", "nodes.self_us", {"nodes__self_us": [1, 2, 3.5]}),
        ("wrong_type", "nodes.samples", {"nodes__samples": [0, 1, [1]]}),
        ("wrong_type", "nodes.samples", {"nodes__samples": [0, 1, {}]}),
        ("wrong_type", "frames.own", {"frames__own": [False, True]}),
        ("wrong_type", "frames.line", {"frames__line": ["0", "7"]}),
        ("wrong_type", "order", {"order": {}}),
        ("wrong_type", "order", {"order": [[0, 1], [1, 2], [2, 3]]}),
        ("wrong_type", "order", {"order": "0"}),
        ("wrong_length", "frames.file", {"frames__file": [1]}),
        ("wrong_length", "frames.line", {"frames__line": [0, 7, 7]}),
        ("wrong_length", "frames.own", {"frames__own": []}),
        ("wrong_length", "nodes.parent", {"nodes__parent": []}),
        ("wrong_length", "nodes.frame", {"nodes__frame": [0, 1]}),
        ("wrong_length", "nodes.self_us", {"nodes__self_us": [1, 2, 3, 4]}),
        ("wrong_length", "nodes.samples", {"nodes__samples": []}),
        ("wrong_length", "order", {"order": [0, 1, 1]}),
        ("number_out_of_range", "nodes.self_us", {"nodes__self_us": [1, 2, -3]}),
        ("number_out_of_range", "nodes.self_us", {"nodes__self_us": [1, 2, 2**53]}),
        ("number_out_of_range", "number", {"nodes__self_us": [1, 2, 2**64]}),
        ("number_out_of_range", "number", {"nodes__self_us": [1, 2, 10**4_000]}),
        ("number_out_of_range", "nodes.samples", {"nodes__samples": [0, -1, 1]}),
        ("number_out_of_range", "nodes.parent", {"nodes__parent": [-1, 0, -2]}),
        ("number_out_of_range", "frames.line", {"frames__line": [0, -7]}),
        ("number_out_of_range", "order", {"order": [0, 1, 1, 2, 2, -3]}),
        ("number_out_of_range", "order", {"order": [-1, 1, 1, 2, 2, 3]}),
        ("index_out_of_range", "frames.function", {"frames__function": [0, 4]}),
        ("index_out_of_range", "frames.file", {"frames__file": [1, 4]}),
        ("number_out_of_range", "frames.file", {"frames__file": [1, -1]}),
        ("index_out_of_range", "frames.own", {"frames__own": [0, 2]}),
        ("index_out_of_range", "nodes.frame", {"nodes__frame": [0, 1, 2]}),
        ("index_out_of_range", "frames.function", {"strings": []}),
        ("index_out_of_range", "order", {"order": [0, 1, 1, 2, 3, 3]}),
        ("sum_out_of_range", "nodes.self_us", {"nodes__self_us": [2**42, 2**42, 0], "order": None}),
        ("sum_out_of_range", "nodes.samples", {"nodes__samples": [2**43, 0, 0]}),
        ("not_preorder", "nodes.parent[0]", {"nodes__parent": [0, 0, 1]}),
        ("not_preorder", "nodes.parent[1]", {"nodes__parent": [-1, -1, 1]}),
        ("not_preorder", "nodes.parent[1]", {"nodes__parent": [-1, 1, 1]}),
        ("not_preorder", "nodes.parent[1]", {"nodes__parent": [-1, 2, 1]}),
        ("not_preorder", "nodes.parent[2]", {"nodes__parent": [-1, 0, 99]}),
        (
            "not_preorder",
            "nodes.parent[3]",
            {
                "nodes__parent": [-1, 0, 0, 1],
                "nodes__frame": [0, 1, 1, 1],
                "nodes__self_us": [1, 2, 3, 0],
                "nodes__samples": [0, 1, 1, 1],
            },
        ),
        ("wrong_root", "node 0", {"nodes__frame": [1, 1, 1]}),
        ("wrong_root", "node 0", {"frames__line": [1, 7]}),
        ("wrong_root", "node 0", {"frames__own": [1, 1]}),
        ("wrong_order", "order", {"order": [0, 1, 1, 2]}),
        ("wrong_order", "order", {"order": []}),
        ("wrong_order", "order", {"order": [0, 1, 1, 3, 2, 2]}),
    ],
)
def test_a_wrong_document_is_refused_by_name(reason, field, changes):
    error = refusal(packed(document(**changes)))

    assert (error.reason, field in str(error)) == (reason, True), str(error)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("not_json", b""),
        ("not_json", b"{"),
        ("not_json", b"no json"),
        ("not_json", b'{"v":1} {}'),
        ("not_json", b'{"v":1,}'),
        ("not_json", b'{"v":01}'),
        ("not_json", b'{"v":"\\'),
        ("not_json", b'{"v":"\x00"}'),
        ("not_json", b"\xef\xbb\xbf{}"),
        ("not_json", b'{"v":NaN}'),
        ("not_json", b'{"v":Infinity}'),
        ("not_json", b'{"v":-Infinity}'),
        ("wrong_type", b"[]"),
        ("wrong_type", b"1"),
        ("wrong_type", b"null"),
        ("wrong_type", b'"v"'),
        ("missing_field", b"{}"),
        ("duplicate_key", b'{"v":1,"v":1}'),
        ("duplicate_key", b'{"v":1,"nodes":{"parent":[],"parent":[]}}'),
        ("not_utf8", b'{"v":"\xff"}'),
        ("not_utf8", b'{"v":"\xed\xa0\x80"}'),
        ("not_utf8", b"\xff\xfe{\x00}\x00"),
        ("number_out_of_range", b'{"v":' + b"1" * 5_000 + b"}"),
        ("number_out_of_range", b'{"v":0.' + b"1" * 5_000 + b"}"),
        ("unsupported_version", b'{"v":1e999}'),
        ("unsupported_version", b'{"v":-1}'),
    ],
)
def test_text_that_is_not_our_json_is_refused_by_name(reason, text):
    assert refusal(packed(text)).reason == reason


def test_a_payload_of_another_type_is_refused():
    for payload in (None, "eJw=", 7, [1], memoryview(b"x")):
        assert refusal(payload).reason == "not_bytes"


@pytest.mark.parametrize(
    "payload", [b"", b"x", b"\x00" * 100, b"\x1f\x8b\x08\x00garbage", b"{}", b"x\x9c\xff\xff"]
)
def test_what_is_not_zlib_is_refused(payload):
    assert refusal(payload).reason in {"not_zlib", "incomplete"}


def test_every_truncation_of_a_payload_is_refused():
    payload = packed(document())

    reasons = {refusal(payload[:length]).reason for length in range(len(payload))}

    assert reasons == {"incomplete"}


def test_bytes_after_the_payload_are_refused():
    payload = packed(document())

    assert refusal(payload + b"\x00").reason == "trailing_data"
    assert refusal(payload + payload).reason == "trailing_data"


def test_a_wrong_checksum_is_refused():
    payload = packed(document())

    assert refusal(payload[:-1] + bytes([payload[-1] ^ 1])).reason == "not_zlib"


def test_a_bomb_is_refused_without_being_unpacked():
    # Given
    bomb = zlib.compress(b" " * 200_000_000, 9)
    tracemalloc.start()

    # When
    reason = refusal(bomb).reason
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Then
    assert reason == "json_too_large"
    assert peak_bytes < 3 * DEFAULT_LIMITS.max_json_bytes


def test_the_compressed_size_is_limited_before_unpacking():
    assert refusal(b"x" * (DEFAULT_LIMITS.max_compressed_bytes + 1)).reason == "compressed_too_large"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b'{"v":' * 1_000_000,
        b'{"v":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        b"[" + b"[]," * 1_000_000 + b"[]]",
        b"[" + b"1," * 10_000_000 + b"1]",
        b"[" + b'"",' * 3_000_000 + b'""]',
        b'["' + b'\\"' * 5_000_000,
        b'"' * 10_000_001,
        b'"\\' * 5_000_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_too_many_values_are_refused_before_they_are_parsed(text):
    # Given
    payload = packed(text)
    tracemalloc.start()

    # When
    reason = refusal(payload).reason
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Then
    assert reason == "too_many_values"
    assert peak_bytes < 5 * len(text) + 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        b'"' + b"\\\\" * 3_000_000 + b'"',
        b'"' + b"\\a" * 3_000_000,
        b'{"v":1,"strings":["' + b"\\u0001" * 1_000_000 + b'"],"frames":{"function":[0]}}',
        b" " * 6_000_000,
        b"-" * 6_000_000,
        b"1 " * 3_000_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_long_text_costs_a_few_times_its_size(text):
    # Given
    payload = packed(text)
    tracemalloc.start()

    # When
    refusal(payload)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Then
    assert peak_bytes < 5 * len(text) + 1_000_000


def test_brackets_commas_and_digits_in_names_count_for_nothing():
    # Given
    name = '[[[{{{,,,\\"' + "1" * 40
    strings = ["[request]", "", name, name * 30]

    # When
    tree = decode(packed(document(strings=strings)))

    # Then
    assert tree.frames[1].function == name


def test_a_name_that_ends_in_a_backslash_hides_nothing_and_opens_nothing():
    # Given
    strings = ["[request]", "C:\\", "view", "[" * 100]

    # When
    tree = decode(packed(document(strings=strings, frames__file=[4, 1], v=1) | {"strings": [*strings, ""]}))

    # Then
    assert tree.frames[1].file == "C:\\"
    assert refusal(packed(b'["\\\\",' + b"[" * 100)).reason == "too_many_values"


def test_control_characters_and_lone_surrogates_from_escapes_become_visible():
    # Given
    text = json.dumps(document()).encode().replace(b'"view"', rb'"a\u0000b\ud800c\ud83d\uded2\n"')

    # When
    tree = decode(packed(text))

    # Then
    assert tree.frames[1].function == r"a\x00b\ud800c" + "🛒" + r"\x0a"


def test_long_names_are_cut_not_refused():
    tree = decode(packed(document(strings=["[request]", "", "f" * 10_000, "d/" * 5_000 + "shop.py"])))

    assert tree.frames[1].function == "f" * 509 + "…"
    assert tree.frames[1].file.endswith("/d/shop.py")
    assert len(tree.frames[1].file.encode()) <= 512


def test_a_root_spelled_with_surrogates_is_not_the_root():
    assert (
        refusal(packed(document(strings=["[request]\ud800", "", "view", "shop.py"]))).reason == "wrong_root"
    )


@pytest.mark.parametrize(
    ("reason", "limits"),
    [
        ("compressed_too_large", {"max_compressed_bytes": 50}),
        ("json_too_large", {"max_json_bytes": 50}),
        ("too_many_nodes", {"max_nodes": 2}),
        ("too_many_frames", {"max_frames": 1}),
        ("too_deep", {"max_depth": 1}),
        ("too_many_values", {"max_order_runs": 2}),
        ("sum_out_of_range", {"max_sum": 5}),
    ],
)
def test_each_limit_is_the_callers_to_set(reason, limits):
    # Given
    payload = packed(document())
    exact = Limits(len(payload), 400, 3, 2, 2, 3, 16, 6)
    decode(payload, limits=exact)

    # When / Then
    assert refusal(payload, exact._replace(**limits)).reason == reason


def test_a_refusal_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(refusal(b"x")))

    assert (error.reason, str(error)) == ("incomplete", str(refusal(b"x")))


def test_a_payload_may_be_a_bytearray():
    assert decode(bytearray(packed(document()))) == decode(packed(document()))
