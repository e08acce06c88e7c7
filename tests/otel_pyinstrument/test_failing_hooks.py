"""What fails in a hop, in a turn of a task or after a fork changes nothing for the application."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType

import anyio.to_thread
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor, hop, hop_patches, private_names
from otel_pyinstrument.engine import Engine
from otel_pyinstrument.loop_steps import _LoopSteps
from otel_pyinstrument.request import Request
from otel_pyinstrument.segment import Segment


def failing(*_arguments: object, **_options: object) -> object:
    raise ValueError("on purpose")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("otel_pyinstrument")]


# --- hops --------------------------------------------------------------------------------------------

HOP_PARTS = [
    (Request, "begin_hop"),
    (Segment, "begin_waiting"),
    (Request, "_open_part"),
    (Engine, "open_hop"),
    (hop, "_identifiers_of"),
    (Request, "_end_part"),
    (Segment, "end_waiting"),
]


@pytest.fixture
def hops_are_followed() -> Iterator[None]:
    hop_patches.install()
    yield
    hop_patches.uninstall()


async def by_anyio(work: Callable[[], object]) -> object:
    return await anyio.to_thread.run_sync(work)


async def by_asgiref(work: Callable[[], object]) -> object:
    return await sync_to_async(work)()


@pytest.mark.usefixtures("hops_are_followed")
@pytest.mark.parametrize("in_thread", [by_anyio, by_asgiref])
@pytest.mark.parametrize(("owner", "name"), HOP_PARTS)
def test_a_failure_around_work_in_a_thread_changes_nothing_but_one_log_line(
    owner: type | ModuleType,
    name: str,
    in_thread: Callable[[Callable[[], object]], Awaitable[object]],
    make_traced,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    burn,
) -> None:
    # Given a part of ours that fails on purpose
    traced = make_traced(reraise=False)
    monkeypatch.setattr(owner, name, failing)

    def work() -> int:
        burn(0.01)
        return 7

    def hook_of_thread() -> object:
        burn(0.01)
        return sys.getprofile()

    async def main() -> tuple[list[object], object]:
        answers = []
        for _ in range(2):
            with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
                answers.append(await in_thread(work))
        return answers, await in_thread(hook_of_thread)

    # When two requests have a thread do their work
    answers, hook = asyncio.run(main())

    # Then they have their answers, every span arrived, one line was logged, and no hook is left
    assert answers == [7, 7]
    assert len(traced.exporter.get_finished_spans()) == 2
    assert messages(caplog) == ["Profiling is off in this process: hop failed"]
    assert (hook, sys.getprofile()) == (None, None)


@pytest.mark.usefixtures("hops_are_followed")
@pytest.mark.parametrize(("owner", "name"), HOP_PARTS)
def test_a_failure_around_work_on_a_loop_changes_nothing_but_one_log_line(
    owner: type | ModuleType,
    name: str,
    make_traced,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    burn,
) -> None:
    # Given a part of ours that fails on purpose
    traced = make_traced(reraise=False)
    monkeypatch.setattr(owner, name, failing)
    answers: list[object] = []

    async def work() -> int:
        burn(0.01)
        await asyncio.sleep(0.001)
        return 7

    # When two requests have an event loop do their work
    for _ in range(2):
        traced.request(lambda: answers.append(async_to_sync(work)()))

    # Then they have their answers, every span arrived, one line was logged, and no hook is left
    assert answers == [7, 7]
    assert len(traced.exporter.get_finished_spans()) == 2
    assert messages(caplog) == ["Profiling is off in this process: hop failed"]
    assert sys.getprofile() is None


# --- turns of a task ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "owner", "name"),
    [
        ("resume", Segment, "_add_pause"),
        ("resume", Segment, "_add_wait"),
        ("resume", private_names, "hook_is_ours_to_share"),
        ("resume", private_names, "subscribe"),
        ("pause", Segment, "_count_cpu"),
        ("pause", private_names, "unsubscribe"),
        ("reach_limit", Segment, "_add_wait"),
        ("reach_limit", Segment, "_add_pause"),
        ("reach_limit", _LoopSteps, "_forget"),
    ],
)
def test_a_failure_in_a_turn_of_a_task_changes_nothing_but_one_log_line(
    method: str,
    owner: type | ModuleType,
    name: str,
    make_traced,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    burn,
) -> None:
    # Given a part of ours that fails on purpose below this method of a segment, and there only
    traced = make_traced(max_duration=0.1 if method == "reach_limit" else 30.0)
    original = getattr(owner, name)
    failures: list[str] = []

    def fails_below(*arguments: object, **options: object) -> object:
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code is getattr(Segment, method).__code__:
                failures.append(method)
                raise ValueError("on purpose")
            frame = frame.f_back
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, fails_below)

    # When two requests take turns with their event loop
    async def work() -> int:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await asyncio.sleep(0.2 if method == "reach_limit" else 0.001)
            await asyncio.sleep(0.001)
            return 7

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        answers = [await work() for _ in range(2)]
        replaced.append("call_soon" in vars(loop))
        return answers

    errors: list[object] = []
    replaced: list[bool] = []
    answers = asyncio.run(main())
    monkeypatch.undo()
    burn(0.02)

    # Then it failed indeed, they have their answers, the loop has no error to tell and is as before, every
    # span arrived, one line was logged, and no hook is left
    assert set(failures) == {method}
    assert answers == [7, 7]
    assert errors == []
    assert replaced == [False]
    assert len(traced.exporter.get_finished_spans()) == 2
    assert messages(caplog) == ["A profile is incomplete: sampling failed"]
    assert sys.getprofile() is None


# --- forks and several threads -----------------------------------------------------------------------

FORK = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor, private_names
from otel_pyinstrument.gate import Gate

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1, interval=1)
tracer = provider.get_tracer("test")

def failing(*_arguments, **_options):
    raise ValueError("on purpose")

span = tracer.start_span("parent", kind=SpanKind.SERVER)
owner, name = OWNER_AND_NAME
original = getattr(owner, name)
setattr(owner, name, failing)
pid = os.fork()
if not pid:
    setattr(owner, name, original)
    sum(number for number in map(int, range(200_000)))
    in_child = sys.getprofile()
    tracer.start_span("child", kind=SpanKind.SERVER).end()
    span.end()
    print(in_child, [(span.name, len(span.events)) for span in exporter.get_finished_spans()], flush=True)
    os._exit(0)
setattr(owner, name, original)
os.waitpid(pid, 0)
span.end()
print(sys.getprofile(), [(span.name, len(span.events)) for span in exporter.get_finished_spans()])
"""


@pytest.mark.parametrize("failing_part", ['Gate, "reset"', 'private_names, "unsubscribe"'])
def test_a_failure_after_a_fork_changes_nothing_but_one_log_line(failing_part: str) -> None:
    # When a profiled request forks, and a part of ours fails on purpose in the child
    script = FORK.replace("OWNER_AND_NAME", failing_part)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    # Then the child goes on without profiles and hook, with one line; the parent with its profile
    assert run.stdout.splitlines() == ["None [('child', 0), ('parent', 0)]", "None [('parent', 1)]"]
    first, *_, last = run.stderr.splitlines()
    assert first == "Profiling is off in this process: after_fork failed"
    assert last == "ValueError: on purpose"
    assert run.stderr.count("Traceback") == 1


def test_a_hook_that_cannot_be_removed_does_not_keep_those_of_other_threads(
    make_traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, burn
) -> None:
    # Given a request on another thread, which runs on while one here ends, and that fails on purpose
    traced = make_traced(reraise=False)
    profiled, failed = threading.Event(), threading.Event()
    hooks: list[object] = []

    def other_request() -> None:
        profiled.set()
        failed.wait(20)
        burn(0.02)
        hooks.append(sys.getprofile())

    span = traced.tracer.start_span("here", kind=SpanKind.SERVER)
    thread = threading.Thread(target=traced.request, args=(other_request,))
    thread.start()
    profiled.wait(20)
    with monkeypatch.context() as patched:
        patched.setattr(private_names, "unsubscribe", failing)
        span.end()
    failed.set()
    thread.join()
    burn(0.02)

    # Then neither thread has a hook after its next sample
    assert messages(caplog) == ["Profiling is off in this process: on_ending failed"]
    assert (hooks, sys.getprofile()) == ([None], None)


# --- switching off -----------------------------------------------------------------------------------


@pytest.fixture
def libraries_are_restored() -> Iterator[None]:
    yield
    hop_patches.uninstall()


@pytest.mark.usefixtures("libraries_are_restored")
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Engine, "stop_all"), (hop_patches, "uninstall"), (private_names, "remove_processor")],
)
def test_a_failure_to_uninstrument_ends_profiling_with_one_log_line(
    owner: type | ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a profiled application, and a part of ours that fails on purpose
    provider = TracerProvider(shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        assert sys.getprofile() is not None

    # When profiling is switched off
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing)
        PyinstrumentInstrumentor().uninstrument()

    # Then one line was logged, and no request is profiled any more
    assert len(messages(caplog)) == 1
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        assert sys.getprofile() is None
    provider.shutdown()
