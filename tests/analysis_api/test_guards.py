"""The guards around a tiny application of their own; routes behind them are tested in the other files."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from analysis_api.guards import guarded
from analysis_api.settings import ApiSettings

TOKEN = "0123456789abcdef-token"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body and the request id that the guards gave it."""
    request = Request(scope, receive)
    body = await request.body()
    response = PlainTextResponse(f"{len(body)} {request.state.request_id}")
    if request.url.path == "/page":
        response.headers["content-security-policy"] = "default-src 'self'"
    await response(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("secret detail")


def client(app: ASGIApp = echo, *, base_url: str = "http://127.0.0.1:8000", **settings: object) -> TestClient:
    return TestClient(guarded(app, ApiSettings(**settings)), base_url=base_url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "localhost",
        "LOCALHOST:1",
        "[::1]:8000",
        "127.0.0.2",
        "shop.example",
        "shop.example:443",
    ],
)
def test_a_loopback_server_answers_to_its_own_names(host: str) -> None:
    response = client(allowed_hosts="other.example, Shop.example").get("/", headers={"host": host})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "127.0.0.1@evil.example",
        "127.0.0.1:8000:9000",
        "localhost:port",
        "[::1",
        "8.8.8.8",
        "0.0.0.0",
        "",
        "caf\u00e9.example",
        "a" * 5_000,
    ],
)
def test_a_loopback_server_refuses_names_that_dns_rebinding_would_use(host: str) -> None:
    # When a page under another name asks
    response = client().get("/", headers={"host": host.encode("latin-1")})

    # Then it is refused with the remedy, and the name is shown cut
    assert (response.status_code, response.json()["code"]) == (403, 1003)
    assert "ALLOWED_HOSTS" in response.json()["msg"]
    assert len(response.json()["msg"]) < 300


def test_on_loopback_no_token_is_needed() -> None:
    response = client(admin_token=TOKEN).get("/", headers={"authorization": "Basic c2hvcA=="})
    assert response.status_code == 200


@pytest.mark.parametrize("bind_host", ["0.0.0.0", "::", "192.0.2.7", "server.example"])
def test_beyond_loopback_nothing_is_anonymous(bind_host: str) -> None:
    # Given a server on a reachable address without a token
    open_server = client(bind_host=bind_host, base_url="http://server.example")

    # When anybody asks, whatever they send
    answers = [
        open_server.get("/api/v1/projects"),
        open_server.post("/api/v1/projects", json={"name": "shop"}),
        open_server.get("/api/v1/projects", headers={"authorization": "Bearer "}),
        open_server.get("/"),
    ]

    # Then all are refused, and the way out is named
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, 1003)}
    assert "ADMIN_TOKEN" in answers[0].json()["msg"]
    assert "BIND_HOST=127.0.0.1" in answers[0].json()["msg"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer wrong",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \u00e9",
    ],
)
def test_a_wrong_token_is_refused(header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    response = client(bind_host="0.0.0.0", admin_token=TOKEN).get("/x", headers=headers)
    assert (response.status_code, response.json()["code"]) == (403, 1003)
    assert TOKEN not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_bearer_of_the_token_comes_in_under_any_host_name(scheme: str) -> None:
    response = client(bind_host="0.0.0.0", admin_token=TOKEN, base_url="http://server.example").get(
        "/x", headers={"authorization": f"{scheme} {TOKEN}"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_token(path: str) -> None:
    assert client(bind_host="0.0.0.0").get(path).status_code == 200
    assert client(bind_host="0.0.0.0").get(path + "/x").status_code == 403


def test_a_body_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    limited = client(max_request_size=2_000)
    assert limited.post("/", content=b"x" * 2_000).text.startswith("2000 ")
    response = limited.post("/", content=b"x" * 2_001)
    assert (response.status_code, response.json()["code"]) == (413, 3002)
    assert "2000 bytes" in response.json()["msg"]


def test_an_absurd_content_length_is_too_large() -> None:
    response = client().post("/", content=b"", headers={"content-length": "9" * 5_000})
    assert (response.status_code, response.json()["code"]) == (413, 3002)


def test_a_body_without_length_is_counted_while_it_comes() -> None:
    # Given an application that answers HTTP exceptions, as FastAPI and Starlette do
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from analysis_api.errors import error_handlers

    app = Starlette(routes=[Mount("/", echo)], exception_handlers=error_handlers())
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1_000_000:
            sent += 500
            yield b"x" * 500

    # When a chunked body does not end
    response = client(app, max_request_size=2_000).post("/", content=endless())

    # Then it is refused like any other
    assert (response.status_code, response.json()["code"]) == (413, 3002)


def test_every_answer_has_a_request_id_and_safe_headers() -> None:
    response = client().get("/")
    assert len(response.headers["x-request-id"]) == 32
    assert response.text == f"0 {response.headers['x-request-id']}"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in response.headers


def test_an_application_keeps_its_own_content_security_policy() -> None:
    assert client().get("/page").headers["content-security-policy"] == "default-src 'self'"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-123.X_y", True), ("a b", False), ("a" * 65, False), ("é", False), ("<b>", False)],
)
def test_a_request_id_of_the_client_is_kept_only_when_it_is_harmless(given: str, kept: bool) -> None:
    response = client().get("/", headers={"x-request-id": given.encode("latin-1")})
    assert (response.headers["x-request-id"] == given) is kept


def test_what_nobody_expected_is_logged_under_its_request_id_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given an application that breaks
    with caplog.at_level(logging.ERROR):
        # When it is asked
        response = client(broken).get("/x%0Ay", headers={"x-request-id": "id-7", "accept-language": "zh"})

    # Then the client gets the id only, and the log has the traceback in one record
    assert (response.status_code, response.json()["code"]) == (500, 1005)
    assert response.json()["data"] == {"request_id": "id-7", "errors": []}
    assert "id-7" in response.json()["msg"]
    assert "secret" not in response.text
    (record,) = caplog.records
    assert "id-7" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.exc_info


def test_the_settings_refuse_a_token_that_can_be_guessed() -> None:
    for token in ("short", "x" * 15, "with a space in it, long", "contains-ümlaut-and-is-long"):
        with pytest.raises(ValueError, match="openssl rand"):
            ApiSettings(admin_token=SecretStr(token))


def test_the_token_is_in_no_representation_of_the_settings() -> None:
    assert TOKEN not in repr(ApiSettings(admin_token=SecretStr(TOKEN)))
