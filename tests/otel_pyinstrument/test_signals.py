"""A signal handler of the application that raises, say a timeout, is heard wherever we catch errors."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import otel_pyinstrument
from otel_pyinstrument import hop_patches, in_code, profile, server_span
from otel_pyinstrument.call_tree import CallTreeBuilder
from otel_pyinstrument.classification import tasks
from otel_pyinstrument.facts import usage
from otel_pyinstrument.guard import Guard
from otel_pyinstrument.profile_event import ProfileEvent
from otel_pyinstrument.recording import Recording, RecordingFacts
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.transport import parts
from otel_pyinstrument.transport.delivery import Delivery
from otel_pyinstrument.transport.export import SplittingExport
from otel_pyinstrument.transport.log_event import LogEvents
from otel_pyinstrument.transport.signals import signal_named

PACKAGE = Path(otel_pyinstrument.__file__).parent

WIDE = {"BaseException", "Exception", "OSError", "RuntimeError"}
"""What handlers are known to raise: `TimeoutError` is an `OSError`."""

ON_THREADS_OF_OURS = {
    "remote_rules/last_good_copy.py:copy_path",
    "remote_rules/last_good_copy.py:read_copy",
    "remote_rules/last_good_copy.py:write_copy",
    "remote_rules/poller.py:_run",
    "self_test.py:_probe_sampler",
    "transport/senders.py:send",
    "transport/spool.py:_run",
    "transport/spool_directory.py:_locks",
    "transport/uvicorn_flush.py:_flush_quietly",
}
"""Python runs signal handlers on the main thread only."""


class TooLate(TimeoutError):
    """The application's."""


def on_timeout(*_arguments: object) -> None:
    raise TooLate


@pytest.fixture
def a_timeout() -> Iterator[Callable[..., None]]:
    """A function at whose call, as it happens, the signal arrives."""
    before = signal.signal(signal.SIGUSR1, on_timeout)
    yield lambda *_arguments, **_options: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


# --- by reading the code -------------------------------------------------------------------------------


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def names_in(node: ast.AST | None) -> set[str]:
    return set() if node is None else {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def lets_signals_through(handler: ast.ExceptHandler) -> bool:
    always_raises = isinstance(handler.body[-1], ast.Raise)
    asks = any("came_from_signal_handler" in names_in(statement) for statement in handler.body)
    return asks or always_raises


def wide_handlers() -> Iterator[tuple[str, ast.ExceptHandler]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "call_tree") or path.is_relative_to(PACKAGE / "command"):
            continue  # pure functions that catch what their input causes; a command of its own
        innermost: dict[ast.ExceptHandler, str] = {}
        for function in functions(ast.parse(path.read_text("utf-8"))):
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and (node.type is None or names_in(node.type) & WIDE):
                    innermost[node] = function.name
        for handler, name in innermost.items():
            yield f"{path.relative_to(PACKAGE).as_posix()}:{name}", handler


def test_every_wide_except_on_a_thread_of_the_application_lets_signals_through() -> None:
    swallowing = {place for place, handler in wide_handlers() if not lets_signals_through(handler)}

    assert swallowing == ON_THREADS_OF_OURS


def test_no_code_of_ours_runs_while_an_object_is_being_freed() -> None:
    # There the interpreter swallows what a signal handler raises.
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = getattr(node, "attr", None) or getattr(node, "name", None)
            if name in {
                "WeakSet",
                "WeakMethod",
                "WeakKeyDictionary",
                "WeakValueDictionary",
                "finalize",
                "__del__",
            }:
                found.append((path.name, name))
            with_callback = isinstance(node, ast.Call) and len(node.args) + len(node.keywords) > 1
            if with_callback and getattr(node.func, "attr", "") in {"ref", "proxy"}:
                found.append((path.name, "weak reference with a callback"))

    assert found == []


# --- by doing it ---------------------------------------------------------------------------------------


def test_a_handler_behind_a_partial_function_is_known(a_timeout: Callable[..., None]) -> None:
    signal.signal(signal.SIGUSR1, partial(on_timeout, "an argument"))

    with pytest.raises(TooLate):
        Guard(lambda: None).call("hook", a_timeout)


def test_in_the_way_out_of_a_guard(a_timeout: Callable[..., None]) -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(TooLate):
        Guard(a_timeout).call("hook", fail)


class Wrapping:
    """The parts of the layer around exporters, each with the signal at one place."""

    def __init__(self, a_timeout: Callable[..., None]) -> None:
        self.arrives = a_timeout
        self.signal = signal_named("traces")

    def splitting(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        signal = self.signal._replace(size_of=self.arrives)
        return SplittingExport(lambda batch: None, signal, max_bytes=1000, spool=None)

    def stripping(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        signal = self.signal._replace(size_of=lambda item: 2000, without_payload=self.arrives)
        return SplittingExport(lambda batch: None, signal, max_bytes=1000, spool=None)

    def measuring_the_batch(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        patch.setattr(parts, "envelope_bytes", self.arrives)
        return SplittingExport(lambda batch: None, self.signal, max_bytes=1000, spool=None)

    def a_part_of_many(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        return SplittingExport(self.arrives, self.signal, max_bytes=1, spool=None)

    def looking_into_the_spool(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        return self._with_spool(waits=self.arrives)

    def writing_to_the_spool(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        return self._with_spool(waits=lambda: True, put=self.arrives)

    def sending_with_a_spool(self, patch: pytest.MonkeyPatch) -> SplittingExport:
        return self._with_spool(self.arrives, waits=lambda: False)

    def _with_spool(
        self, send: Callable[..., object] = lambda batch: SpanExportResult.SUCCESS, **methods: object
    ) -> SplittingExport:
        spool = type("Spool", (), {name: staticmethod(method) for name, method in methods.items()})()
        return SplittingExport(send, self.signal, max_bytes=100_000, spool=spool)


@pytest.mark.parametrize(
    "place",
    [
        "splitting",
        "stripping",
        "measuring_the_batch",
        "a_part_of_many",
        "looking_into_the_spool",
        "writing_to_the_spool",
        "sending_with_a_spool",
    ],
)
def test_in_an_export_on_the_request_s_thread(place, a_timeout, traced, monkeypatch) -> None:
    # Given a simple span processor, or a force_flush in the middle of a request
    span = traced.request(lambda: None)

    export = getattr(Wrapping(a_timeout), place)(monkeypatch)

    with pytest.raises(TooLate):
        export([span, span])


def event_with(**options: Callable[..., object]) -> ProfileEvent:
    builder = CallTreeBuilder()
    facts = RecordingFacts(0.1, 0.1, 0.1, 0.0, 0, truncated=False, interrupted=False, failure=None)
    return ProfileEvent(
        Recording(builder, [], facts),
        reason="rate",
        interval_seconds=0.01,
        timestamp=0,
        **{"payload_as_bytes": lambda: True, "report": lambda *_arguments: None, **options},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("work", ["payload_as_bytes", "request_facts"])
def test_in_the_encoding_of_a_profile(work, a_timeout) -> None:
    event = event_with(**{work: a_timeout})

    with pytest.raises(TooLate):
        _ = event.attributes

    # Then who reads it next gets it after all
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert event.attributes


def test_in_a_log_record(a_timeout, traced) -> None:
    span = traced.request(lambda: None)
    log_events = LogEvents(a_timeout)
    log_events._emit = a_timeout

    with pytest.raises(TooLate):
        log_events.emit(event_with(), span)


def a_run_that_is_interrupted(at: str, a_timeout: Callable[..., None], patch: pytest.MonkeyPatch) -> None:
    calls = iter([lambda: 1, a_timeout] if at == "end" else [a_timeout])
    patch.setattr(in_code, "memory_bytes", lambda: next(calls)())
    with profile("block", memory=True):
        pass


@pytest.mark.parametrize("at", ["start", "end"])
def test_in_a_block_of_the_application(at, a_timeout, traced, monkeypatch) -> None:
    # Given a block that is profiled
    monkeypatch.setattr(otel_pyinstrument.installed, "provider", traced.provider)

    # When the signal arrives in our part of it
    with pytest.raises(TooLate):
        a_run_that_is_interrupted(at, a_timeout, monkeypatch)

    # Then its span has ended, and its hook is gone
    assert [span.name for span in traced.exporter.get_finished_spans()] == ["block"]
    assert sys.getprofile() is None


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (
            server_span,
            "_address",
            lambda: server_span.start_server_span(lambda given: given, ("GET", "", {}, {})),
        ),
        (server_span, "urlsplit", lambda: server_span._address("host")),
        (ctypes, "PyDLL", usage._reader_of_statm),
        (tasks.asyncio, "get_running_loop", tasks.running_loop),
    ],
)
def test_in_what_the_request_asks_for(
    module: ModuleType, name: str, call: Callable[[], object], a_timeout, monkeypatch
) -> None:
    monkeypatch.setattr(module, name, a_timeout)

    with pytest.raises(TooLate):
        call()


def test_in_following_a_library(a_timeout, monkeypatch) -> None:
    monkeypatch.setitem(hop_patches._PATCHES, "somewhere", a_timeout)
    monkeypatch.setattr(hop_patches, "_users", 1)

    with pytest.raises(TooLate):
        hop_patches._apply(ModuleType("somewhere"))


@pytest.mark.parametrize("method", ["install", "uninstall"])
def test_in_switching_the_transport(method, a_timeout, traced) -> None:
    delivery = Delivery(traced.provider, Settings())
    setattr(delivery._transport, method, a_timeout)

    with pytest.raises(TooLate):
        getattr(delivery, method)()
    setattr(delivery._flush, method, lambda: None)
    with contextlib.suppress(TooLate):
        delivery.uninstall()
