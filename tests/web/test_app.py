from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from web.app import create_app
from web.settings import WebSettings


def test_the_language_switch_is_remembered_and_leads_back(pages: Any) -> None:
    # Given an English page
    page = pages.get("/?page=2")
    assert 'lang="en"' in page.html

    # When the other language is chosen
    answer = pages.get(page.links["中文"]).response

    # Then the browser goes back to the same page and keeps the choice, against its own wishes
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?page=2"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert 'lang="zh-CN"' in pages.get("/", accept_language="en").html


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil",
        "javascript:alert(1)",
        "/a\nSet-Cookie:x",
    ],
)
def test_the_language_switch_never_leads_to_another_site(target: str, pages: Any) -> None:
    answer = pages.run(
        lambda: pages.client.get("/language/zh_CN", params={"next": target}, follow_redirects=False)
    )
    assert answer.headers["location"] == "/"


def test_an_unknown_language_sets_nothing(pages: Any) -> None:
    answer = pages.get("/language/tlh?next=/").response
    assert answer.status_code == 303
    assert "set-cookie" not in answer.headers
    assert 'lang="en"' in pages.get("/", cookie="language=../../etc").html


def test_the_languages_differ_for_caches(pages: Any) -> None:
    assert pages.get("/").response.headers["vary"] == "Accept-Language, Cookie"


def test_hashed_files_are_kept_for_ever_and_missing_ones_are_not(pages: Any) -> None:
    assert "immutable" in pages.get("/static/app.css").response.headers["cache-control"]
    missing = pages.get("/static/app-0.css").response
    assert missing.status_code == 404
    assert missing.headers["cache-control"] == "no-store"
    assert pages.get("/static/../settings.py").status == 404
    assert pages.get("/static/%2e%2e/settings.py").status == 404


def test_links_hold_below_a_mount_path(pages: Any, static_directory: Path) -> None:
    # Given the pages somewhere below another application
    project = pages.project()
    app = Starlette(
        routes=[
            Mount("/performance", create_app(pages.store, WebSettings(static_directory=static_directory)))
        ]
    )
    pages.client._transport.app = app

    # Then every address begins there
    page = pages.get("/performance/")
    assert page.links["shop"] == f"/performance/projects/{project.id}/records"
    assert 'href="/performance/static/app.css"' in page.html
    assert pages.get(page.links["shop"]).status == 200
