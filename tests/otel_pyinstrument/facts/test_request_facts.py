"""The facts on the event: what they hold, that they stay small, and that they hide secrets."""

from __future__ import annotations

import json
import mmap
import os
import platform
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.trace import SpanKind

from otel_pyinstrument.facts import process, request_facts, usage
from otel_pyinstrument.facts.request_facts import MAX_BYTES, RequestFacts

DOCUMENT = (Path(__file__).parents[3] / "docs" / "wire-format.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def each_test_has_its_own_environment() -> Iterator[None]:
    process.commit.cache_clear()
    yield
    process.commit.cache_clear()


def test_the_process_and_the_runtime_are_named(traced, facts_of, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a request of an application that an instrumentation of Flask traces
    monkeypatch.setenv("GIT_COMMIT", "0123456789ABCDEF0123456789abcdef01234567")
    tracer = traced.provider.get_tracer("opentelemetry.instrumentation.flask")
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        pass

    facts = facts_of(traced.exporter.get_finished_spans()[-1])

    assert facts["process"]["pid"] == os.getpid()
    assert facts["process"]["thread"] == "MainThread"
    assert facts["runtime"]["python"] == platform.python_version()
    assert facts["runtime"]["framework"] == "flask"
    assert re.fullmatch(r"\d+\.\d+.*", facts["runtime"]["framework_version"])
    assert facts["commit"] == "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("value", ["", "main", "not-a-commit; rm -rf", "12345"])
def test_what_is_no_commit_is_not_taken_for_one(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in process._COMMIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_COMMIT", value)

    assert process.commit() == ""


@pytest.mark.parametrize("scope", ["", "my.tracer", "opentelemetry.instrumentation.asgi"])
def test_a_span_of_no_framework_names_none(scope: str) -> None:
    assert process.runtime_facts(scope)["framework"] == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux tells the resident size")
def test_memory_grows_by_what_the_request_keeps(traced, facts_of) -> None:
    # Given new pages: what malloc gives may be memory that the process has already
    kept = mmap.mmap(-1, 50_000_000)

    def use() -> None:
        for page in range(0, len(kept), mmap.PAGESIZE):
            kept[page] = 1

    memory = facts_of(traced.request(use))["memory"]

    assert 40_000_000 < memory["rss_delta"] < 100_000_000
    assert memory["rss_delta"] < memory["rss"] <= memory["peak_rss"]
    assert "traced" not in memory


def test_traced_memory_is_there_when_the_user_traces(traced, facts_of) -> None:
    kept = []
    tracemalloc.start()
    try:
        memory = facts_of(traced.request(lambda: kept.append(bytearray(5_000_000))))["memory"]
    finally:
        tracemalloc.stop()

    assert 5_000_000 <= memory["traced_delta"] < 8_000_000


@pytest.mark.parametrize("statm", [b"/does/not/exist", b"/dev/null", b"/proc/self/comm"])
def test_a_platform_without_figures_leaves_them_out(statm: bytes, traced, facts_of, monkeypatch) -> None:
    monkeypatch.setattr(usage, "_STATM", statm)

    facts = facts_of(traced.request(lambda: None))

    assert "memory" not in facts
    assert facts["runtime"]["python"]


@pytest.mark.parametrize("error", [OSError, AttributeError, RuntimeError])
def test_an_interpreter_that_loads_no_libraries_leaves_memory_out(
    error: type[Exception], traced, facts_of, monkeypatch
) -> None:
    # Given one that is linked statically, or an audit hook that forbids it
    def refuse(_name: object) -> None:
        raise error

    monkeypatch.setattr("ctypes.PyDLL", refuse)
    monkeypatch.setattr(usage, "_read_statm", usage._reader_of_statm())

    assert "memory" not in facts_of(traced.request(lambda: None))


def test_an_interpreter_without_ctypes_leaves_memory_out(traced, facts_of, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(usage, "_read_statm", usage._reader_of_statm())

    assert "memory" not in facts_of(traced.request(lambda: None))


def test_a_platform_without_resource_leaves_the_peak_to_what_was_seen(traced, facts_of, monkeypatch) -> None:
    monkeypatch.setattr(usage, "resource", None)

    memory = facts_of(traced.request(lambda: None)).get("memory", {})

    assert memory.get("peak_rss", 0) >= memory.get("rss", 0)


def test_the_cpu_time_is_that_of_the_process(traced, facts_of, burn) -> None:
    cpu = facts_of(traced.request(lambda: burn(0.05)))["cpu"]

    assert 0.05 <= cpu["process_time"] < 1
    assert 0 < cpu["process_share"] <= 1


def served(traced, attributes: dict) -> object:
    with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER, attributes=attributes):
        pass
    return traced.exporter.get_finished_spans()[-1]


def test_secrets_of_request_and_response_never_leave_the_process(make_traced, facts_of) -> None:
    # Given captured headers and parameters with secrets, and a name that only this company knows
    traced = make_traced(mask=("x-badge",))
    span = served(
        traced,
        {
            "http.request.method": "POST",
            "http.route": "/login",
            "url.query": "page=2&access_token=s3cret&user=ada",
            "http.request.header.authorization": ["Bearer s3cret"],
            "http.request.header.cookie": "session=s3cret",
            "http.request.header.x_badge_number": ["s3cret"],
            "http.request.header.accept": ["text/html", "text/plain"],
            "http.request.body": "s3cret",
            "http.response.status_code": 200,
            "http.response.header.set_cookie": ["id=s3cret"],
            "http.response.header.content_type": ["text/html"],
        },
    )

    facts = facts_of(span)

    assert "s3cret" not in json.dumps(facts)
    assert facts["request"] == {
        "method": "POST",
        "route": "/login",
        "parameters": [["page", "2"], ["access_token", "***"], ["user", "ada"]],
        "headers": {
            "authorization": "***",
            "cookie": "***",
            "x-badge-number": "***",
            "accept": "text/html, text/plain",
        },
    }
    assert facts["response"] == {
        "status_code": 200,
        "headers": {"set-cookie": "***", "content-type": "text/html"},
    }


def test_old_names_of_the_request_are_read_too(traced, facts_of) -> None:
    facts = facts_of(
        served(traced, {"http.method": "GET", "http.target": "/a?token=1&b=", "http.status_code": 404})
    )

    assert facts["request"] == {"method": "GET", "parameters": [["token", "***"], ["b", ""]]}
    assert facts["response"] == {"status_code": 404}


def test_the_facts_stay_within_their_budget(traced, facts_of, child) -> None:
    # Given a request with many long statements, headers and parameters
    def work() -> None:
        for number in range(60):
            columns = ", ".join(f"column_{number}_{n}" for n in range(100))
            with child({"db.system": "sqlite", "db.statement": f"SELECT {columns} FROM t"}):
                pass
            with child({"http.method": "GET", "net.peer.name": f"{number}." + "h" * 900}):
                pass

    span = traced.request(work)

    (event,) = [event for event in span.events if event.name == "pyinstrument.profile"]
    assert len(event.attributes["pyinstrument.facts"]) <= MAX_BYTES
    facts = facts_of(span)
    assert facts["database"]["count"] == facts["external"]["count"] == 60
    assert facts["database"]["groups"]
    assert facts["database"]["groups_left_out"] >= 40


def test_a_hostile_amount_of_headers_is_left_out_rather_than_sent(traced, facts_of) -> None:
    attributes = {f"http.request.header.{n}_{'x' * 600}": "v" * 5_000 for n in range(100)}

    facts = facts_of(served(traced, attributes))

    assert "request" not in facts
    assert facts["process"]


def test_a_failure_while_writing_the_facts_keeps_the_profile(
    make_traced, tree_of, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    traced = make_traced()
    monkeypatch.setattr(request_facts, "_memory", lambda *_: 1 / 0)

    span = traced.request(lambda: None)

    tree_of(span)
    assert "pyinstrument.facts" not in span.events[-1].attributes
    assert "facts failed" in caplog.text


def test_nothing_is_collected_for_a_request_that_is_not_profiled(make_traced, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(RequestFacts, "__init__", lambda self: made.append(self))
    traced = make_traced(rate=0.0)

    traced.request(lambda: None)

    assert made == []


def test_every_member_is_documented(traced, facts_of, child) -> None:
    # Given a request with something of everything
    def work() -> None:
        with child({"db.system": "sqlite", "db.statement": "SELECT 1"}):
            pass
        with child({"db.system": "redis", "db.statement": "GET ?", "cache.hit": True}):
            pass
        with child({"http.method": "GET", "net.peer.name": "x"}):
            pass
        with child({"jinja2.template_name": "x"}, kind=SpanKind.INTERNAL):
            pass

    tracemalloc.start()
    try:
        facts = facts_of(traced.request(work))
    finally:
        tracemalloc.stop()
    section = DOCUMENT.partition("## The facts of the request")[2].partition("\n## ")[0]

    def names(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for member in value.values() for name in names(member)}
        if isinstance(value, list):
            return {name for member in value for name in names(member)}
        return set()

    assert {name for name in names(facts) if f"`{name}`" not in section} == set()
