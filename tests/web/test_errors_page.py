from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from profile_store.embedded_mongodb import embedded_mongodb
from web.assets_manifest import AssetsManifest
from web.pages.errors import ErrorPages
from web.rendering import Renderer


def test_a_wrong_address_is_explained_in_the_style_of_the_site(pages: Any) -> None:
    page = pages.get("/nowhere/<script>")
    assert page.status == 404
    assert "Nothing is here" in page.text
    assert page.links["To the projects"] == "/"
    assert "这里什么都没有" in pages.get("/nowhere", accept_language="zh").text


def test_a_wrong_method_is_refused_with_the_right_ones(pages: Any) -> None:
    answer = pages.run(pages.client.post, "/")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("content", [None, "", "not json", "{}"])
def test_missing_assets_are_named_with_the_remedy_and_no_restart_is_needed(
    content: str | None, pages: Any, static_directory: Path
) -> None:
    # Given a checkout whose assets were never built, or only half
    manifest = static_directory / "manifest.json"
    built = manifest.read_text("utf-8")
    manifest.unlink()
    if content is not None:
        manifest.write_text(content, "utf-8")

    # Then every page says what to do
    for path in ["/", "/nowhere"]:
        answer = pages.get(path)
        assert answer.status == 503
        assert "python web/build_assets.py" in answer.html

    # And works as soon as it was done
    manifest.write_text(built, "utf-8")
    assert pages.get("/").status == 200


def test_a_database_that_went_away_is_said(
    tmp_path: Path,
    mongod_executable: Path,
    static_directory: Path,
    open_pages: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # When a page and a fragment are asked for after the server died
    page, fragment = answers_without_database(tmp_path, static_directory, open_pages)
    assert "the database does not answer" in caplog.text
    gc.collect()  # here, where that socket is expected, and in no other test

    # Then each says what is wrong, in its own form
    assert (page["status"], page["retry-after"]) == (503, "5")
    assert "The database does not answer" in page["text"]
    assert fragment["status"] == 503
    assert fragment["text"].startswith("<tr")


def answers_without_database(
    data: Path, static_directory: Path, open_pages: Callable[..., Any]
) -> list[dict[str, Any]]:
    """Plain values, so that nothing keeps the closed store alive."""
    with (
        embedded_mongodb(data) as server,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_pages(server.url, "pages", static_directory)) as (_, client),
    ):
        assert portal.call(client.get, "/").status_code == 200
        os.kill(server.pid, signal.SIGKILL)
        server.exited.wait(10)
        row = f"/projects/{'0' * 24}/records/{'0' * 48}/tree"
        asked = [
            portal.start_task_soon(client.get, "/"),
            portal.start_task_soon(partial(client.get, row, headers={"HX-Request": "true"})),
        ]
        answers = [future.result(60) for future in asked]
    return [
        {"status": answer.status_code, "retry-after": answer.headers["retry-after"], "text": answer.text}
        for answer in answers
    ]


def test_a_bug_gives_a_page_without_its_details(static_directory: Path) -> None:
    # Given an application with these error pages, and a bug
    async def bug(request: Request) -> None:
        raise ValueError("secret detail")

    errors = ErrorPages(Renderer(AssetsManifest(static_directory)))
    handlers: dict[Any, Any] = errors.handlers()
    app = Starlette(routes=[Route("/", bug)], exception_handlers=handlers)

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get("/")

    # Then the page tells nothing of it
    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert "Something went wrong" in answer.text
    assert "secret detail" not in answer.text
