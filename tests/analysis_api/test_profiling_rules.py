"""What applications are told to profile, and what they do with it: real API, real poller, real gate."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pymongo import MongoClient

from analysis_api.guards import guarded
from analysis_api.settings import ApiSettings
from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.remote_rules.poller import RulesPoller
from otel_pyinstrument.remote_rules.rules import Rules, read_rules

NOTHING = {
    "enabled": True,
    "sampling_rate": None,
    "exclude_paths": [],
    "include_patterns": [],
    "endpoint_configs": {},
}
CONFIG = {
    "enabled": True,
    "sampling_rate": 0.1,
    "exclude_paths": ["/health"],
    "include_patterns": ["/api/*"],
    "endpoint_configs": {"GET /orders/{id}": {"sampling_rate": 1.0, "slow_threshold": 0.5}},
    "retention_days": 7,
    "alert_thresholds": {"response_time": 500},
}


@pytest.fixture
def configure(mongodb_url: str, mongodb_database: str) -> Iterator[Callable[..., None]]:
    """Change the stored project, as no route does yet."""
    with MongoClient[dict[str, Any]](mongodb_url) as client:

        def change(project: Any, **fields: Any) -> None:
            changed = client[mongodb_database]["projects"].update_one(
                {"name": project.name}, {"$set": fields}
            )
            assert changed.matched_count == 1

        yield change


def rules_path(project: Any) -> str:
    return f"/api/v1/projects/{project.project_key}/config"


def test_a_project_without_configuration_decides_nothing(api: Any) -> None:
    response = api.get(rules_path(api.project()))

    assert response.status_code == 200
    assert response.json() == {"code": 0, "msg": "success", "data": NOTHING}
    assert response.headers["cache-control"] == "no-cache"


def test_the_part_for_applications_is_served_and_nothing_else(api: Any, configure) -> None:
    project = api.project()
    expires_at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    config = {**CONFIG, "endpoint_configs": {"GET /a": {"sampling_rate": 1.0, "expires_at": expires_at}}}
    configure(project, config=config)

    data = api.get(rules_path(project)).json()["data"]

    assert data == {
        "enabled": True,
        "sampling_rate": 0.1,
        "exclude_paths": ["/health"],
        "include_patterns": ["/api/*"],
        "endpoint_configs": {
            "GET /a": {
                "sampling_rate": 1.0,
                "slow_threshold": None,
                "expires_at": "2026-11-21T12:00:00.000Z",
            }
        },
    }


def test_what_is_served_is_what_applications_read(api: Any, configure) -> None:
    project = api.project()
    configure(project, config=CONFIG)

    rules = read_rules(api.get(rules_path(project)).content)

    assert (rules.enabled, rules.sampling_rate) == (True, 0.1)
    rule = rules.rule_for(Endpoint("GET /orders/{}", "GET", "/orders/7"), time.time())
    assert rule is not None
    assert (rule.sampling_rate, rule.slow_threshold, rule.expires_at) == (1.0, 0.5, None)


def test_an_etag_saves_the_body_until_something_changes(api: Any, configure) -> None:
    # Given an answer with an ETag
    project = api.project()
    etag = api.get(rules_path(project)).headers["etag"]

    # When nothing has changed, there is no body
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        unchanged = api.get(rules_path(project), headers={"if-none-match": given})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)

    # And what does not concern applications is no change
    configure(project, description="other")
    assert api.get(rules_path(project), headers={"if-none-match": etag}).status_code == 304

    # But a rule is
    configure(project, config={"sampling_rate": 0.5})
    changed = api.get(rules_path(project), headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    "fields", [{"status": "archived"}, {"status": "inactive"}, {"config": {"enabled": False}}]
)
def test_a_project_that_is_not_active_is_not_profiled(api: Any, configure, fields: dict[str, Any]) -> None:
    project = api.project()
    configure(project, **fields)

    assert api.get(rules_path(project)).json()["data"]["enabled"] is False


def test_only_the_key_leads_to_the_rules(api: Any) -> None:
    project = api.project()

    for reference in (project.id, project.name, "opk_unknown", "%ED%A0%80", "x" * 3_000):
        response = api.get(f"/api/v1/projects/{reference}/config")
        assert (response.status_code, response.json()["code"]) == (404, 1001)


def test_an_unknown_parameter_is_refused(api: Any) -> None:
    assert api.get(rules_path(api.project()) + "?a=1").status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/projects/opk_0123456789abcdef/config", 200),
        ("POST", "/api/v1/projects/opk_0123456789abcdef/config", 403),
        ("GET", "/api/v1/projects/opk_0123456789abcdef/config/", 403),
        ("GET", "/api/v1/projects/opk_0123456789abcdef", 403),
        ("GET", "/api/v1/projects/a/../b0123456789abcdef/config", 403),
        ("GET", "/api/v1/projects/short/config", 403),
    ],
)
def test_no_bearer_token_is_needed_for_the_rules_alone(api: Any, method: str, path: str, status: int) -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        settings = ApiSettings(bind_host="0.0.0.0", admin_token="0123456789abcdef-token")  # type: ignore[arg-type]
        scope = {"type": "http", "method": method, "path": path, "headers": []}
        await guarded(app, settings)(scope, receive, send)

    api.run(ask)

    assert sent[0]["status"] == status
    assert bool(reached) is (status == 200)


# --- with a real server and the application's own poller ---------------------------------------------


@pytest.fixture
def platform_url(api: Any) -> Iterator[str]:
    """The API behind a real socket, on the loop that opened the store."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = api.client._transport.app
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    serving = api.portal.start_task_soon(server.serve, [listener])
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    serving.result(30)
    listener.close()


class Received:
    """Where the poller hands its rules."""

    def __init__(self) -> None:
        self.rules: list[Rules] = []

    def apply(self, rules: Rules) -> None:
        self.rules.append(rules)


def test_an_application_follows_the_rules_of_its_project(
    api: Any, configure, platform_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an application that asks the platform
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    project = api.project()
    received = Received()
    poller = RulesPoller(
        platform_url, project.project_key, received.apply, shortest_seconds=0.02, longest_seconds=0.05
    )
    poller.start()
    wait_for(lambda: len(received.rules) == 1)
    assert received.rules[0].sampling_rate is None

    # When somebody wants everything of one endpoint for ten minutes
    until = datetime.now(UTC) + timedelta(minutes=10)
    rule = {"sampling_rate": 1.0, "expires_at": until}
    configure(project, config={"endpoint_configs": {"GET /orders": rule}})
    wait_for(lambda: len(received.rules) == 2)
    poller.stop()

    # Then the application does that, and no longer
    orders = Endpoint("GET /orders", "GET", "/orders")
    assert received.rules[1].rule_for(orders, time.time()) is not None
    assert received.rules[1].rule_for(orders, until.timestamp()) is None
    wait_for(lambda: "otel-pyinstrument-rules" not in {thread.name for thread in threading.enumerate()})


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
