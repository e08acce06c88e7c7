from __future__ import annotations

import pytest

from web.display import duration, reveal, share, shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0000005, "0.50 µs"),
        (0.000035, "35.0 µs"),
        (0.0009994, "999 µs"),
        (0.00099951, "1.00 ms"),
        (0.01, "10.0 ms"),
        (0.09996, "100 ms"),
        (0.99949, "999 ms"),
        (0.99951, "1.00 s"),
        (1.248, "1.25 s"),
        (99.96, "100 s"),
        (12345.6, "12,346 s"),
    ],
)
def test_a_duration_has_three_digits_and_the_unit_that_suits(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 1, "0%"),
        (1, 0, "0%"),
        (0.0001, 1, "<0.1%"),
        (0.0342, 1, "3.4%"),
        (0.0996, 1, "10%"),
        (1, 1, "100%"),
    ],
)
def test_a_share_is_short_and_never_zero_by_rounding(part: float, whole: float, text: str) -> None:
    assert share(part, whole) == text


@pytest.mark.parametrize(
    ("hostile", "visible"),
    [
        ("evil\u202egnp.exe", "evil\\u202Egnp.exe"),
        ("nul\0inside", "nul\\u0000inside"),
        ("two\nlines", "two\\u000Alines"),
        ("line\u2028separator", "line\\u2028separator"),
        ("lone\ud800surrogate", "lone\\uD800surrogate"),
        ("tag\U000e0041", "tag\\U000E0041"),
        ("soft\u00adhyphen", "soft\\u00ADhyphen"),
    ],
)
def test_what_browsers_hide_is_written_out(hostile: str, visible: str) -> None:
    assert reveal(hostile) == visible


@pytest.mark.parametrize(
    "name", ["load_orders", "Größe", "订单_列表", "café e\u0301", "a\u00a0b", "ﻣﺮﺣﺒﺎ", "{{7*7}}"]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert reveal(name) == name


def test_a_pile_of_marks_cannot_paint_over_the_page() -> None:
    assert reveal("z" + "\u0301" * 300).count("\u0301") == 4


def test_characters_to_keep_are_kept() -> None:
    assert reveal("a\n\tb\0", keep="\n\t") == "a\n\tb\\u0000"


def test_a_long_name_is_cut_with_an_ellipsis() -> None:
    assert shown("x" * 10_000) == "x" * 120 + "…"
    assert shown("x" * 120) == "x" * 120
    assert len(shown("\0" * 10_000)) == 121
