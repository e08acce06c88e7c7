from __future__ import annotations

import pytest

from otel_pyinstrument.call_tree.text import cut_end, cut_start, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("load_orders", "load_orders"),
        ("bestellungen_für_日本_🛒", "bestellungen_für_日本_🛒"),
        ("a\x00b\nc\x7f\x85", r"a\x00b\x0ac\x7f\x85"),
        ("caf\udce9.py", r"caf\udce9.py"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_control_characters_and_lone_surrogates_become_visible(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_a_long_name_loses_its_end():
    assert cut_end("abcdefghij", 10) == "abcdefghij"
    assert cut_end("abcdefghijk", 10) == "abcdefg…"


def test_a_long_path_loses_its_start():
    assert cut_start("abcdefghij", 10) == "abcdefghij"
    assert cut_start("abcdefghijk", 10) == "…efghijk"


@pytest.mark.parametrize("cut", [cut_end, cut_start])
@pytest.mark.parametrize("max_bytes", range(3, 30))
def test_a_cut_never_splits_a_character_and_never_exceeds_its_limit(cut, max_bytes):
    text = cut("é日🛒" * 5, max_bytes)

    assert len(text.encode()) <= max_bytes
    assert set(text) <= set("é日🛒…")
    assert cut(text, max_bytes) == text
