"""Turn values into short, honest text. Names come from foreign processes: all are hostile."""

from __future__ import annotations

import unicodedata

NAME_LIMIT = 120
"""Characters of a name that are shown; the rest becomes an ellipsis."""

_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})
"""Unicode categories that a browser hides, reorders by, or cannot encode."""

_MARKS = frozenset({"Mn", "Me"})
_MARKS_IN_A_ROW = 4
"""No language stacks more marks on a letter; hundreds of them paint over the whole page."""


def reveal(text: str, *, keep: str = "") -> str:
    """Write what hides, reorders or overpaints text as `\\uXXXX`, so that no name looks like another.

    Characters in `keep` stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    shown_characters: list[str] = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in _MARKS else 0
        hides = category in _INVISIBLE and char not in keep
        shown_characters.append(_escaped(char) if hides or marks > _MARKS_IN_A_ROW else char)
    return "".join(shown_characters)


def shown(text: str, limit: int = NAME_LIMIT) -> str:
    """`text` as one visible line of at most `limit` characters and an ellipsis."""
    cut = reveal(text[: limit + 1])
    return cut if len(cut) <= limit else cut[:limit] + "…"


def duration(seconds: float | None) -> str:
    """Three significant digits and a unit: `1.24 s`, `812 ms`, `35.0 µs`; a dash when unknown."""
    if seconds is None:
        return "–"
    if seconds == 0:
        return "0 ms"
    magnitude = abs(seconds)
    if magnitude >= 99.95:
        return f"{seconds:,.0f} s"
    if magnitude >= 0.9995:
        return f"{_three_digits(seconds)} s"
    if magnitude >= 0.0009995:
        return f"{_three_digits(seconds * 1e3)} ms"
    return f"{_three_digits(seconds * 1e6)} µs"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in percent: `34%`, `3.4%`, `<0.1%`."""
    if whole <= 0 or part <= 0:
        return "0%"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1%"
    return f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


def _escaped(char: str) -> str:
    point = ord(char)
    return f"\\u{point:04X}" if point <= 0xFFFF else f"\\U{point:08X}"


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    if magnitude >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if magnitude >= 9.995 else f"{value:.2f}"
