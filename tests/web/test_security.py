"""Every answer carries the policy, whatever it is."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from web.security import CONTENT_SECURITY_POLICY, SecurityHeaders


@pytest.mark.parametrize(
    "path",
    ["/", "/projects/x/records", "/static/app.css", "/static/missing.js", "/language/en", "/nowhere", "/%00"],
)
def test_every_answer_has_the_policy(path: str, pages: Any) -> None:
    headers = pages.get(path).response.headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"]


def test_the_policy_allows_nothing_inline_and_nobody_else() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; ")


def test_an_unexpected_error_has_the_policy_too() -> None:
    # Given an application that fails
    async def fail(request: Request) -> None:
        raise ValueError("a bug")

    app = SecurityHeaders(Starlette(routes=[Route("/", fail)]))

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get("/")

    # Then even the last resort's answer has the headers
    response = asyncio.run(ask())
    assert response.status_code == 500
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
