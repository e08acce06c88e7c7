"""OTLP values become plain values that BSON and JSON can hold."""

import json
import math

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from profile_store.otlp_attributes import MAX_DEPTH, attributes_of


def test_values_keep_their_type(make):
    attributes = {
        "t": "text",
        "b": True,
        "i": -(2**63),
        "d": 1.5,
        "raw": b"\x00\xff",
        "l": [1, "a"],
        "m": {"k": 2},
    }

    assert attributes_of(make.pairs(attributes)) == attributes


def test_empty_values_are_kept(make):
    assert attributes_of(make.pairs({"none": None, "text": "", "list": [], "map": {}, "raw": b""})) == {
        "none": None,
        "text": "",
        "list": [],
        "map": {},
        "raw": b"",
    }


def test_places_in_the_table_of_another_signal_are_ignored():
    """Only profiles come with a table of texts; elsewhere OTLP wants these fields ignored."""
    pairs = [
        KeyValue(key="value", value=AnyValue(string_value_strindex=3)),
        KeyValue(key_strindex=3, value=AnyValue(string_value="key")),
    ]

    assert attributes_of(pairs) == {"value": None}


def test_the_last_of_repeated_keys_wins(make):
    assert attributes_of(make.pairs([("a", 1), ("a", "2"), ("b", 1), ("a", 3)])) == {"a": 3, "b": 1}


def test_a_nul_in_a_key_is_replaced_and_an_empty_key_is_left_out(make):
    assert attributes_of(make.pairs([("a\x00b", 1), ("", 2)])) == {"a\ufffdb": 1}


def test_a_long_key_is_cut(make):
    assert list(attributes_of(make.pairs({"k" * 10_000: 1}))) == ["k" * 256]


@pytest.mark.parametrize(
    ("number", "expected"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_numbers_that_json_lacks_become_words(make, number, expected):
    result = attributes_of(make.pairs({"d": number, "l": [number]}))

    assert result == {"d": expected, "l": [expected]}
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("nest", [lambda inner: [inner], lambda inner: {"k": inner}])
def test_what_is_nested_too_deep_is_replaced_by_a_note(make, nest):
    # Given a value nested nearly as deep as protobuf lets maps through
    value = "bottom"
    for _ in range(25):
        value = nest(value)

    # When it is converted
    result = attributes_of(make.pairs({"deep": value}))["deep"]

    # Then it ends in a note
    depth = 1
    while isinstance(result, (list, dict)):
        result = result[0] if isinstance(result, list) else result["k"]
        depth += 1
    assert (result, depth) == ("[nested deeper than 16 levels]", MAX_DEPTH)
