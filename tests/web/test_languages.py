from __future__ import annotations

import re

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from web.languages import LANGUAGES, negotiate
from web.rendering import TEMPLATES


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh_CN"),
        ("zh-Hant-TW", "zh_CN"),
        ("en-GB,zh;q=0.9", "en"),
        ("en;q=0.5,zh;q=0.9", "zh_CN"),
        ("fr,de", "en"),
        ("fr,zh;q=0.1", "zh_CN"),
        ("zh;q=0", "en"),
        ("zh;q=nonsense", "en"),
        ("*", "en"),
        (";;;,,,=", "en"),
        ("x" * 100_000, "en"),
    ],
)
def test_the_browsers_wishes_decide_in_their_order(header: str, language: str) -> None:
    assert negotiate(header) == language


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_text_of_the_templates_is_translated_and_nothing_else(language: str) -> None:
    # Given the texts in the templates, and the catalogue
    options = {"newstyle_gettext": "true", "trim_blocks": "true", "lstrip_blocks": "true"}
    found = extract_from_dir(TEMPLATES, method_map=[("**.html", "jinja2")], options_map={"**.html": options})
    used = {message if isinstance(message, str) else message[0] for _, _, message, _, _ in found}
    with (TEMPLATES.parent / "locales" / f"{language}.po").open("rb") as source:
        catalogue = {
            (entry.id if isinstance(entry.id, str) else entry.id[0]): entry
            for entry in read_po(source, locale=language)
            if entry.id
        }

    # Then they are the same, none is empty or doubtful, and each uses the same values
    assert used == set(catalogue)
    for text, entry in catalogue.items():
        translated = entry.string if isinstance(entry.string, str) else entry.string[0]
        assert translated, text
        assert not entry.fuzzy, text
        values = r"%\(\w+\)s|\{\w+\}"
        assert sorted(re.findall(values, translated)) == sorted(re.findall(values, text)), text
