"""Compressed bytes come back as they were, also those of earlier versions, and damage is noticed."""

import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from profile_store.mongodb.compression import compress, decompress

DATA = b"SELECT * FROM orders WHERE id = ?; " * 50


@settings(deadline=None)
@given(st.binary(max_size=2_000))
def test_everything_comes_back(data):
    assert decompress(compress(data), at_most=2_000) == data


def test_what_earlier_versions_stored_is_read():
    assert decompress(zlib.compress(DATA, 1), at_most=len(DATA)) == DATA


def test_threads_do_not_disturb_each_other():
    # Large ones: the interpreter lets others run only meanwhile
    parts = [os.urandom(50_000) + bytes([number]) * 50_000 for number in range(200)]

    with ThreadPoolExecutor(8) as threads:
        packed = list(threads.map(compress, parts))
        assert list(threads.map(lambda data: decompress(data, at_most=100_000), packed)) == parts


@pytest.mark.parametrize("pack", [compress, zlib.compress], ids=["zstd", "zlib"])
def test_damage_is_noticed(pack):
    packed = pack(DATA)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 255

    for damaged in (packed[:-1], packed[:8], bytes(flipped), b""):
        with pytest.raises(ValueError, match="damaged"):
            decompress(damaged, at_most=10_000)


@pytest.mark.parametrize(
    "pack",
    [compress, zlib.compress, lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data)],
    ids=["zstd", "zlib", "zstd without its size"],
)
def test_more_than_expected_is_refused(pack):
    with pytest.raises(ValueError, match="too large"):
        decompress(pack(bytes(1_000_000)), at_most=999_999)


def test_bytes_after_the_end_are_refused():
    with pytest.raises(ValueError, match="damaged"):
        decompress(compress(DATA) + b"x", at_most=10_000)
