from __future__ import annotations

import string

import pytest

from analysis_api.messages import MESSAGES, message, preferred_language


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("ZH-Hant", "zh"),
        ("en;q=0.8, zh;q=0.9", "zh"),
        ("en, zh", "en"),
        ("fr, de;q=0.5", "en"),
        ("fr, zh;q=0.1", "zh"),
        ("zh;q=0, en;q=0.1", "en"),
        ("zh;q=0", "en"),
        ("zh;q=nan", "en"),
        ("zh;q=1e999", "en"),
        ("zh;q=", "en"),
        (";;;,,,=;q", "en"),
        ("*", "en"),
        ("x," * 100_000 + "zh", "en"),
    ],
)
def test_the_language_is_the_one_the_client_prefers_among_ours(header: str, language: str) -> None:
    assert preferred_language(header) == language


@pytest.mark.parametrize("key", sorted(MESSAGES))
def test_every_message_exists_in_both_languages_with_the_same_gaps(key: str) -> None:
    # Given the sentence in both languages
    texts = MESSAGES[key]

    # Then no language lacks a value that the other shows
    gaps = {
        language: {name for _, name, _, _ in string.Formatter().parse(text) if name}
        for language, text in texts.items()
    }
    assert gaps["en"] == gaps["zh"]
    assert texts["en"].isascii()
    assert not texts["zh"].isascii()


def test_braces_in_values_stay_text() -> None:
    assert message("route_not_found", "en", path='"/{key}"').startswith('No such address: "/{key}"')
