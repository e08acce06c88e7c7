"""The pages as one ASGI application, to be mounted by the composition root."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from profile_store.contracts import Reader
from web.assets_manifest import AssetsManifest
from web.languages import LANGUAGE_COOKIE, LANGUAGES
from web.pages import projects, record, records
from web.pages.errors import ErrorPages
from web.rendering import Renderer
from web.security import SecurityHeaders
from web.settings import WebSettings

_YEAR = 31_536_000


def create_app(store: Reader, settings: WebSettings | None = None) -> ASGIApp:
    """The web interface over an open store. Use it on the event loop that opened the store."""
    settings = settings or WebSettings()
    renderer = Renderer(AssetsManifest(settings.static_directory))
    handlers: dict[Any, Any] = ErrorPages(renderer).handlers()
    pages = Starlette(
        routes=[
            *projects.routes(store, renderer, settings),
            *records.routes(store, renderer, settings),
            *record.routes(store, renderer),
            Route("/language/{language}", choose_language),
            Mount("/static", _HashedFiles(directory=settings.static_directory, check_dir=False)),
        ],
        exception_handlers=handlers,
    )
    # Around Starlette's own error middleware, which sends the page of last resort.
    return SecurityHeaders(pages)


async def choose_language(request: Request) -> Response:
    """Remember the language for a year and go back to `next`, which must be a path of this site."""
    response = RedirectResponse(_path_here(request.query_params.get("next", "/")), status_code=303)
    language: str = request.path_params["language"]
    if language in LANGUAGES:
        response.set_cookie(LANGUAGE_COOKIE, language, max_age=_YEAR, httponly=True, samesite="lax")
    return response


def _path_here(address: str) -> str:
    """`address` if browsers read it as a path of this site (`//host` and `/\\host` they do not), else `/`."""
    is_path = address.startswith("/") and not address.startswith("//")
    return address if is_path and "\\" not in address and address.isprintable() else "/"


_FIXED_NAMES = frozenset({"manifest.json", ".stamp"})


class _HashedFiles(StaticFiles):
    """Files whose names change with their content, so a browser never asks twice."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code in (200, 304) and path not in _FIXED_NAMES:
            response.headers["Cache-Control"] = f"public, max-age={_YEAR}, immutable"
        return response
