"""Which language a page speaks: the visible switch (a cookie) first, then `Accept-Language`, then English."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations
from starlette.requests import Request

LANGUAGES = {"en": "English", "zh_CN": "中文"}
"""Catalogue name -> the name that the switch shows."""

LANGUAGE_COOKIE = "language"
_LOCALES = Path(__file__).parent / "locales"


@cache
def translations(language: str) -> NullTranslations:
    """The catalogue of one of `LANGUAGES`, compiled in memory from its .po file; English needs none."""
    if language == "en":
        return NullTranslations()
    with (_LOCALES / f"{language}.po").open("rb") as source:
        catalogue = read_po(source, locale=language, abort_invalid=True)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Translations(compiled)


def language_of(request: Request) -> str:
    """One of `LANGUAGES`; anything unknown in cookie or header is passed over."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen in LANGUAGES:
        return chosen
    return negotiate(request.headers.get("accept-language", ""))


def negotiate(header: str) -> str:
    """The best of `LANGUAGES` for an Accept-Language header (RFC 9110, 12.5.4); all Chinese is zh_CN."""
    ranked: list[tuple[float, int, str]] = []
    for position, item in enumerate(header[:1000].split(",")):
        tag, _, parameters = item.strip().partition(";")
        language = _catalogue_for(tag.strip())
        if language is not None:
            ranked.append((-_quality(parameters), position, language))
    ranked = [entry for entry in ranked if entry[0] < 0]
    return min(ranked)[2] if ranked else "en"


def html_language(language: str) -> str:
    """The BCP 47 tag for `<html lang>`: `zh-CN`."""
    return language.replace("_", "-")


def _catalogue_for(tag: str) -> str | None:
    try:
        base = Locale.parse(tag, sep="-").language
    except (ValueError, UnknownLocaleError):
        return None
    return next((name for name in LANGUAGES if name.partition("_")[0] == base), None)


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
