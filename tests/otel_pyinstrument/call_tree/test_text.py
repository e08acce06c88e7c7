from __future__ import annotations

import pytest

from otel_pyinstrument.call_tree.text import bounded_name, bounded_path, printable


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
    assert bounded_name("abcdefghij", 10) == "abcdefghij"
    assert bounded_name("abcdefghijk", 10) == "abcdefg…"


def test_a_long_path_loses_its_start():
    assert bounded_path("abcdefghij", 10) == "abcdefghij"
    assert bounded_path("abcdefghijk", 10) == "…efghijk"


@pytest.mark.parametrize("cut", [bounded_name, bounded_path])
@pytest.mark.parametrize("max_bytes", range(3, 30))
def test_a_cut_never_splits_a_character_and_never_exceeds_its_limit(cut, max_bytes):
    text = cut("é日🛒" * 5, max_bytes)

    assert len(text.encode()) <= max_bytes
    assert set(text) <= set("é日🛒…")
    assert cut(text, max_bytes) == text


@pytest.mark.parametrize("cut", [bounded_name, bounded_path])
def test_escapes_count_as_what_they_become(cut):
    assert cut("\x00" * 4, 16) == r"\x00" * 4
    assert len(cut("\x00" * 5, 16).encode()) <= 16
    assert cut("", 16) == ""


def test_a_long_text_is_cut_before_it_is_searched():
    # Given: one character more than fits at once, so that both ends show that something is missing
    text = "a" * 17

    # Then
    assert bounded_name(text, 16) == "a" * 13 + "…"
    assert bounded_path(text, 16) == "…" + "a" * 13
