from __future__ import annotations

import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profile_store.model import SpanEvent
from profile_store.mongodb.attributes import MAX_DEPTH, MAX_JSON_BYTES, pack, unpack

# Lone surrogates included: whatever Python calls a text.
texts = st.text(st.characters())
scalars = texts | st.integers() | st.booleans() | st.none() | st.binary() | st.floats(allow_nan=False)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)
mappings = st.dictionaries(texts, values, max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is slow
@given(mappings, mappings, st.lists(st.tuples(texts, st.integers(), mappings), max_size=3))
def test_whatever_is_packed_comes_back(attributes, resource, events):
    events = [SpanEvent(name=name, time_unix_nano=time, attributes=values) for name, time, values in events]
    assert unpack(pack(attributes, resource, events)) == (attributes, resource, events)


def test_a_mapping_that_looks_like_the_tag_of_bytes_stays_a_mapping():
    attributes = {"a": {"b": "AAAA"}, "c": {"m": {"b": "AAAA"}}, "d": b"\x00"}
    assert unpack(pack(attributes, {}, []))[0] == attributes


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_up_to_the_limit_is_kept():
    assert unpack(pack({"a": nested(MAX_DEPTH - 1)}, {}, []))[0] == {"a": nested(MAX_DEPTH - 1)}


@pytest.mark.parametrize("depth", [MAX_DEPTH, 5_000])
def test_deeper_nesting_is_refused(depth):
    with pytest.raises(ValueError, match="nested deeper than 64"):
        pack({"a": nested(depth)}, {}, [])


def test_values_of_other_types_are_refused():
    with pytest.raises(ValueError, match="object"):
        pack({"a": object()}, {}, [])


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no zlib",
        zlib.compress(b"no json"),
        zlib.compress(b"[]"),
        zlib.compress(b"[1,2,3]"),
        zlib.compress(b'[{"a":{"b":1}},{},[]]'),
        zlib.compress(b'[{"a":{"x":1}},{},[]]'),
        zlib.compress(b"[[" * 50_000),
        zlib.compress(b"[{},{},[]]")[:-4],
        zlib.compress(bytes(MAX_JSON_BYTES + 1)),
    ],
    ids=range(10),
)
def test_damaged_bytes_are_one_kind_of_error(damaged):
    with pytest.raises(ValueError):
        unpack(damaged)
