from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.remote_rules import download as download_module
from otel_pyinstrument.remote_rules import poller as poller_module
from otel_pyinstrument.remote_rules.poller import RulesPoller
from otel_pyinstrument.remote_rules.rules import Rules

KEY = "opk_secret"


class Receiver:
    """Where rules go."""

    def __init__(self) -> None:
        self.rates: list[float | None] = []

    def apply(self, rules: Rules) -> None:
        self.rates.append(rules.sampling_rate)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "otel-pyinstrument"


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def poll(platform, receiver: Receiver) -> Iterator[Callable[[], RulesPoller]]:
    made: list[RulesPoller] = []

    def start() -> RulesPoller:
        made.append(
            RulesPoller(platform.url, KEY, receiver.apply, shortest_seconds=0.01, longest_seconds=0.02)
        )
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.stop()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "otel-pyinstrument-rules"]


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    yield
    for each in threads():
        each.join(20)
    assert threads() == []


def test_rules_are_applied_and_changes_too(platform, poll, receiver: Receiver, wait_until) -> None:
    # Given rules
    platform.rules(b'{"sampling_rate": 0.5}', '"1"')
    poller = poll()
    wait_until(lambda: len(platform.requests) >= 3)
    assert receiver.rates == [0.5]

    # When they change
    platform.rules(b'{"sampling_rate": 0.7}', '"2"')
    wait_until(lambda: receiver.rates == [0.5, 0.7])
    poller.stop()

    # Then each was sent once, and asked for by its ETag afterwards
    assert platform.requests[0][:2] == (f"/api/v1/projects/{KEY}/config", None)
    assert platform.requests[1][1] == '"1"'


def test_bad_answers_change_nothing_and_are_told_once(
    platform, reply, poll, receiver: Receiver, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    platform.rules(b'{"sampling_rate": 0.5}')
    poll()
    wait_until(lambda: receiver.rates == [0.5])

    # When the platform sends nonsense for a while
    count = len(platform.requests)
    platform.answer = reply(200, b'{"sampling_rate": 7}')
    wait_until(lambda: len(platform.requests) > count + 5)
    platform.answer = reply(503, b"")
    wait_until(lambda: len(platform.requests) > count + 10)
    platform.rules(b'{"sampling_rate": 0.6}', '"2"')
    wait_until(lambda: receiver.rates == [0.5, 0.6])

    # Then there was one line about it, without the key
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "The last ones hold" in warnings[0].getMessage()
    assert KEY not in caplog.text


def test_rules_that_cannot_be_read_are_not_taken_for_known(
    platform, reply, poll, receiver: Receiver, wait_until
) -> None:
    # Given a poller that has rules
    platform.rules(b'{"sampling_rate": 0.5}', '"1"')
    poll()
    wait_until(lambda: receiver.rates == [0.5])

    # When newer ones make no sense for a while
    platform.answer = reply(200, b'{"sampling_rate": 7}', etag='"2"')
    count = len(platform.requests)
    wait_until(lambda: len(platform.requests) > count + 5)

    # Then it asks for what is newer than those it has
    assert {etag for _path, etag, _headers in platform.requests[1:]} == {'"1"'}


def test_each_outage_of_the_platform_is_told_once(
    platform, reply, poll, receiver: Receiver, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> int:
        return sum(record.levelno >= logging.WARNING for record in caplog.records)

    def outage() -> None:
        count = len(platform.requests)
        platform.answer = reply(503, b"")
        wait_until(lambda: len(platform.requests) > count + 3)

    # Given an outage that is over
    poll()
    outage()
    platform.rules(b'{"sampling_rate": 0.5}')
    wait_until(lambda: receiver.rates == [0.5])
    assert warnings() == 1

    # When there is another one
    outage()

    # Then
    assert warnings() == 2


def test_the_last_good_rules_hold_when_the_platform_is_away_at_a_start(
    platform, poll, receiver: Receiver, wait_until, own_cache: Path
) -> None:
    # Given a process that had rules
    platform.rules(b'{"sampling_rate": 0.5}')
    poller = poll()
    wait_until(lambda: own_cache.exists() and [p for p in own_cache.iterdir() if p.suffix == ".json"])
    poller.stop()

    # When another one starts while the platform is away
    platform.close()
    poll()

    # Then they hold there too
    wait_until(lambda: receiver.rates == [0.5, 0.5])


def test_a_kept_copy_is_asked_for_by_its_etag(
    platform, poll, receiver: Receiver, wait_until, own_cache
) -> None:
    platform.rules(b'{"sampling_rate": 0.5}', '"1"')
    poller = poll()
    wait_until(lambda: own_cache.exists() and [p for p in own_cache.iterdir() if p.suffix == ".json"])
    poller.stop()
    for each in threads():
        each.join(20)
    count = len(platform.requests)

    poll()

    wait_until(lambda: len(platform.requests) > count)
    assert platform.requests[count][1] == '"1"'


def test_starting_twice_starts_one_thread(platform, poll, wait_until) -> None:
    poller = poll()
    poller.start()
    poller.start()

    assert len(threads()) == 1
    assert threads()[0].daemon


def test_a_stopped_poller_does_not_start(platform, receiver: Receiver) -> None:
    poller = RulesPoller(platform.url, KEY, receiver.apply)
    poller.stop()
    poller.start()

    assert threads() == []


def test_the_thread_ends_when_nobody_wants_rules_any_more(platform, wait_until) -> None:
    platform.rules(b"{}")
    receiver = Receiver()
    poller = RulesPoller(platform.url, KEY, receiver.apply, shortest_seconds=0.01, longest_seconds=0.02)
    poller.start()
    wait_until(lambda: platform.requests)

    del receiver
    gc.collect()

    wait_until(lambda: not threads())


def test_no_new_thread_is_no_failure(platform, receiver: Receiver, monkeypatch, caplog) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    poller = RulesPoller(platform.url, KEY, receiver.apply)
    poller.start()
    poller.start()

    assert len(caplog.records) == 1


def test_polling_makes_no_spans(platform, poll, wait_until, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled

    seen: list[bool] = []
    original = poller_module.download

    def download(address: str, etag: str):
        seen.append(is_http_instrumentation_enabled())
        return original(address, etag)

    monkeypatch.setattr(poller_module, "download", download)
    platform.rules(b"{}")
    poll()
    wait_until(lambda: seen)

    assert set(seen) == {False}


class AskedWaits(threading.Event):
    """Does not wait, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return super().wait(0)


def test_questions_are_spread_and_a_change_holds_within_30_seconds(
    platform, receiver: Receiver, wait_until
) -> None:
    # Given a poller with its own times, whose pauses are skipped
    platform.rules(b"{}")
    poller = RulesPoller(platform.url, KEY, receiver.apply)
    poller._stop = pauses = AskedWaits()

    # When it has asked a hundred times
    poller.start()
    wait_until(lambda: len(pauses.seconds) >= 100)
    poller.stop()

    # Then no two processes would go in step, and with the longest answer a change is in force in 30 seconds
    assert len(set(pauses.seconds)) > 50
    assert min(pauses.seconds) >= 10
    assert max(pauses.seconds) - min(pauses.seconds) >= 3
    assert max(pauses.seconds) <= poller._longest_seconds
    assert poller._longest_seconds + download_module._TOTAL_SECONDS <= 30


# --- in an application -------------------------------------------------------------------------------


@pytest.fixture
def provider(platform) -> Iterator[TracerProvider]:
    made = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(
        tracer_provider=made, rate=0, cpu_budget=1, platform_url=platform.url, project_key=KEY
    )
    yield made
    PyinstrumentInstrumentor().uninstrument()
    made.shutdown()


def serve(provider: TracerProvider, path: str = "/orders") -> str | None:
    """The reason in the profile event of a request; None without one."""
    with provider.get_tracer("test").start_as_current_span(
        f"GET {path}", kind=SpanKind.SERVER, attributes={"http.method": "GET", "http.target": path}
    ) as span:
        pass
    return next((dict(event.attributes)["pyinstrument.reason"] for event in span.events), None)


def test_nothing_is_asked_before_the_first_request(platform, provider: TracerProvider, wait_until) -> None:
    assert threads() == []
    platform.rules(b'{"endpoint_configs": {"GET /orders": {"sampling_rate": 1}}}')

    # When requests come, the rule soon holds
    wait_until(lambda: serve(provider) == "rule")

    assert serve(provider, "/other") is None
    PyinstrumentInstrumentor().uninstrument()
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=0)


def test_a_failing_platform_does_not_fail_a_request(platform, provider: TracerProvider, wait_until) -> None:
    platform.close()

    assert serve(provider) is None
    wait_until(threads)
    assert serve(provider) is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_asks_for_itself(platform, provider: TracerProvider, wait_until) -> None:
    # Given a process that asks
    platform.rules(b'{"sampling_rate": 1}')
    wait_until(lambda: serve(provider) == "rate")
    count = len(platform.requests)

    # When it forks
    child = os.fork()
    if child == 0:
        # Nothing of pytest may run here; the parent sees what the child asks for.
        alone = threads() == []
        serve(provider)
        started = len(threads()) == 1
        threads()[0].join(1)
        os._exit(0 if alone and started else 1)

    # Then the child had no thread until its first request, and then its own
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until(lambda: len(platform.requests) > count)
