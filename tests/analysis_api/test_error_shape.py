"""Every way to fail, on every kind of route, has one shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from analysis_api.app import create_app
from analysis_api.errors import STATUS, shown
from analysis_api.guards import guarded
from analysis_api.settings import ApiSettings
from profile_store.contracts import Store

JSON = {"content-type": "application/json"}
RECORDS = "/api/v1/performance/records"

FAILURES: dict[str, tuple[str, str, dict[str, Any], int, int]] = {
    "unknown address": ("GET", "/api/v1/nothing", {}, 404, 1001),
    "unknown address, any method": ("PATCH", "/api/v2/projects", {}, 404, 1001),
    "slash at the end": ("GET", "/api/v1/projects/", {}, 404, 1001),
    "no documentation pages": ("GET", "/api/v1/docs", {}, 404, 1001),
    "wrong method": ("DELETE", "/api/v1/projects", {}, 405, 1000),
    "wrong method at the root": ("POST", "/health", {}, 405, 1000),
    "unknown method": ("BREW", RECORDS, {}, 405, 1000),
    "bad parameter": ("GET", "/api/v1/projects?page=x", {}, 422, 1000),
    "unknown parameter": ("GET", "/api/v1/projects?pgae=1", {}, 422, 1000),
    "unknown parameter of one project": ("GET", "/api/v1/projects/x?full=1", {}, 422, 1000),
    "unknown parameter beside a body": (
        "POST",
        "/api/v1/projects?x=1",
        {"json": {"name": "shop"}},
        422,
        1000,
    ),
    "missing parameter": ("GET", RECORDS, {}, 422, 1000),
    "bad node": ("GET", f"{RECORDS}/{'0' * 48}?project_key=x&node=-1", {}, 422, 1000),
    "unknown project": ("GET", "/api/v1/projects/x", {}, 404, 1001),
    "unknown project key": ("GET", f"{RECORDS}?project_key=x", {}, 404, 2001),
    "bad JSON": ("POST", "/api/v1/projects", {"content": b"{", "headers": JSON}, 400, 1009),
    "no JSON": ("POST", "/api/v1/projects", {"content": b"name=shop"}, 415, 1009),
    "bad body": ("POST", "/api/v1/projects", {"json": {}}, 422, 1000),
    "large body": ("POST", "/api/v1/projects", {"content": b"x" * (17 << 20), "headers": JSON}, 413, 3002),
    "large body without length": (
        "POST",
        "/api/v1/projects",
        {"content": lambda: iter_bytes(17), "headers": JSON},
        413,
        3002,
    ),
    "foreign host": ("GET", "/api/v1/projects", {"headers": {"host": "evil.example"}}, 403, 1003),
}


async def iter_bytes(megabytes: int) -> Any:
    for _ in range(megabytes):
        yield b"x" * (1 << 20)


def check_shape(response: Any, status: int, code: int, language: str) -> None:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert list(body) == ["code", "msg", "data"]
    assert body["msg"]
    assert body["msg"].isascii() is (language == "en")
    assert list(body["data"]) == ["request_id", "errors"]
    assert body["data"]["request_id"] == response.headers["x-request-id"]
    assert all(list(error) == ["field", "msg"] for error in body["data"]["errors"])
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-language"] == language
    assert response.headers["vary"] == "accept-language"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_has_the_same_shape_in_both_languages(api: Any, failure: str, language: str) -> None:
    # Given one way to fail
    method, path, options, status, code = FAILURES[failure]
    options = dict(options)
    if callable(options.get("content")):
        options["content"] = cast("Callable[[], Any]", options["content"])()
    headers = {**options.pop("headers", {}), "accept-language": language}

    # When it happens
    response = api.request(method, path, headers=headers, **options)

    # Then the answer looks like any other failure
    check_shape(response, status, code, language)


@pytest.fixture
def broken() -> Iterator[TestClient]:
    """The API with a store that lacks every method: each call is an error that nobody expected."""
    app = guarded(create_app(cast("Store", object())), ApiSettings())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("path", ["/projects", "/projects/x", "/performance/records?project_key=x"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_unexpected_error_has_the_same_shape_and_tells_nothing(
    broken: TestClient, path: str, language: str
) -> None:
    response = broken.get(path, headers={"accept-language": language})
    check_shape(response, 500, 1005, language)
    assert "attribute" not in response.text


def test_a_wrong_method_names_the_right_ones(api: Any) -> None:
    assert set(api.request("DELETE", "/api/v1/projects").headers["allow"].split(", ")) <= {
        "GET",
        "POST",
        "HEAD",
    }


def test_the_openapi_document_describes_every_route_and_the_shape_of_failures(api: Any) -> None:
    # When the document is read
    document = api.get("/api/v1/openapi.json").json()

    # Then it has the routes, with the error shape as their only other answer
    assert set(document["paths"]) == {
        "/projects",
        "/projects/{project_key}",
        "/projects/{project_key}/config",
        "/performance/records",
        "/performance/records/{record_id}",
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = {"201" if method == "post" else "200", "default"}
            if path == "/projects/{project_key}/config":
                answers.add("304")
            assert set(operation["responses"]) == answers, (path, method)
            reference = operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"]
            assert reference.endswith("/ErrorAnswer")
    assert document["servers"] == [{"url": "/api/v1"}]
    assert "Call" in document["components"]["schemas"]


def test_every_code_has_a_status_of_its_kind() -> None:
    assert all(400 <= status <= 599 for status in STATUS.values())


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("shop", '"shop"'),
        ("a\r\nb\u202e", '"a\ufffd\ufffdb\ufffd"'),
        ("\ud800", '"\ufffd"'),
        ("x" * 100, '"' + "x" * 80 + '..."'),
        (7, '"7"'),
    ],
)
def test_foreign_text_is_quoted_cut_and_kept_on_one_line(value: object, quoted: str) -> None:
    assert shown(value) == quoted
    json.dumps(shown(value)).encode()
