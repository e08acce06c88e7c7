"""Templates to answers. A page is a frozen dataclass; its fields are exactly what its template may use."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from babel.numbers import format_decimal
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from web import display
from web.addresses import Addresses
from web.assets_manifest import AssetsManifest
from web.languages import LANGUAGES, html_language, language_of, translations

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:

    class DataclassInstance(Protocol):
        __dataclass_fields__: ClassVar[dict[str, Any]]


TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the frame around every page uses, beside the page's own fields."""

    language: str
    html_language: str
    languages: dict[str, str]
    address: str
    """Path and query of the page, for links that come back to it."""


class Renderer:
    """Holds one Jinja environment for each language; safe to share between requests of one loop."""

    def __init__(self, assets: AssetsManifest) -> None:
        self._assets = assets
        self._environments = {language: environment(language) for language in LANGUAGES}

    def page(
        self, request: Request, template: str, context: DataclassInstance, status_code: int = 200
    ) -> HTMLResponse:
        """Render `template` in the language of `request`.

        Raises:
            AssetsNotBuiltError: the page would have neither style nor script.
        """
        language = language_of(request)
        urls = Addresses(request.scope.get("root_path", ""), self._assets)
        values = {item.name: getattr(context, item.name) for item in fields(context)}
        html = (
            self._environments[language]
            .get_template(template)
            .render(values, site=_site(request, language), urls=urls)
        )
        headers = {"Content-Language": html_language(language), "Vary": "Accept-Language, Cookie"}
        return HTMLResponse(html, status_code, headers)


def environment(language: str) -> Environment:
    """Autoescape for every template, whatever its name; an unknown variable is an error."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    env.policies["json.dumps_kwargs"] = {"sort_keys": False}
    any_env: Any = env  # extensions and filters are not typed
    any_env.install_gettext_translations(translations(language), newstyle=True)
    any_env.filters.update(
        shown=display.shown,
        duration=display.duration,
        share=display.share,
        number=partial(_number, locale=language),
        utc=_utc,
        shell_word=shlex.quote,
    )
    return env


def _number(value: int, locale: str) -> str:
    return format_decimal(value, locale=locale)


def _utc(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _finalize(value: object) -> object:
    """The last look at everything that a template prints: no invisible character gets through."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return display.reveal(value, keep="\n\t")
    return value


def _site(request: Request, language: str) -> Site:
    return Site(
        language=language,
        html_language=html_language(language),
        languages=LANGUAGES,
        address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
    )
