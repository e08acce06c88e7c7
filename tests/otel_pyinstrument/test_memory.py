"""Many requests of every kind, those that go wrong too: nothing of them stays in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import anyio.to_thread
import greenlet
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, use_span

from otel_pyinstrument import hop_patches
from otel_pyinstrument.gate import Gate
from otel_pyinstrument.segment import Segment

REQUESTS = 10_000
ENDPOINTS_EVER = 2_000
"""More than the gate remembers."""


class ReadAndForget(SpanExporter):
    """Encodes what it gets, as an exporter does, and counts."""

    def __init__(self) -> None:
        self.profiles = 0
        self._lock = threading.Lock()

    def export(self, spans) -> SpanExportResult:
        read = sum("pyinstrument.payload" in event.attributes for span in spans for event in span.events)
        with self._lock:
            self.profiles += read
        return SpanExportResult.SUCCESS


class Service:
    """Requests that end well, fail, are cancelled, or end in another thread or task. All are profiled."""

    def __init__(self, tracer) -> None:
        self.tracer = tracer
        self.kinds = [self.plain, self.failing, self.ended_elsewhere, self.on_a_loop]
        self._threads = ThreadPoolExecutor(2)
        self._loop = asyncio.new_event_loop()
        self._number = 0

    def close(self) -> None:
        self._threads.shutdown()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def serve(self, count: int) -> None:
        served = 0
        while served < count:
            kind = self.kinds[self._number % len(self.kinds)]
            self._number += 1
            served += kind()

    def _name(self) -> str:
        return f"GET /{self._number % ENDPOINTS_EVER}"

    def _span(self):
        return self.tracer.start_as_current_span(self._name(), kind=SpanKind.SERVER)

    def plain(self) -> int:
        with self._span():
            for number in range(3):
                with self.tracer.start_as_current_span("query", attributes={"db.query.text": f"q{number}"}):
                    sum(range(200))
        return 1

    def failing(self) -> int:
        with contextlib.suppress(ZeroDivisionError), self._span():
            1 / 0  # noqa: B018 - the failure is what matters
        return 1

    def ended_elsewhere(self) -> int:
        span = self.tracer.start_span(self._name(), kind=SpanKind.SERVER)
        sum(range(200))
        self._threads.submit(span.end).result()
        return 1

    def on_a_loop(self) -> int:
        return self._loop.run_until_complete(self._on_a_loop())

    async def _on_a_loop(self) -> int:
        async def waits() -> None:
            with self._span():
                await asyncio.sleep(0)

        async def hops() -> None:
            with self._span():
                await anyio.to_thread.run_sync(sum, range(200))

        async def forever() -> None:
            with self._span():
                await asyncio.sleep(3600)

        async def ended_by_another_task() -> None:
            span = self.tracer.start_span(self._name(), kind=SpanKind.SERVER)

            async def end() -> None:
                with use_span(span):
                    await asyncio.sleep(0)
                span.end()

            await asyncio.create_task(end())

        cancelled = asyncio.create_task(forever())
        others = [asyncio.create_task(each()) for each in (waits, hops, ended_by_another_task)]
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, *others, return_exceptions=True)
        assert cancelled.cancelled()
        return 4


@pytest.fixture
def no_coverage() -> Iterator[None]:
    """coverage.py keeps six blocks of memory of each hop of anyio to a thread, with or without profiling."""
    trace, trace_of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    threading.settrace(trace_of_threads)
    sys.settrace(trace)


@pytest.fixture
def service(no_coverage: None, make_traced) -> Iterator[tuple[Service, ReadAndForget, Gate]]:
    traced = make_traced(max_concurrent=100)
    # In place of the exporter of the fixture, which keeps what it gets.
    traced.provider._active_span_processor._span_processors = (traced.processor,)
    exporter = ReadAndForget()
    traced.provider.add_span_processor(SimpleSpanProcessor(exporter))
    hop_patches.install()
    assert greenlet.getcurrent() is not None  # loaded, as by SQLAlchemy: then its objects are asked for
    made = Service(traced.tracer)
    yield made, exporter, traced.processor.gate
    made.close()
    hop_patches.uninstall()


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def settled(read: Callable[[], int]) -> int:
    gc.collect()
    return read()


def test_memory_is_flat_over_ten_thousand_requests(service: tuple[Service, ReadAndForget, Gate]) -> None:
    served, exporter, gate = service

    # When they are served, an eighth after the other
    blocks: list[int] = []
    resident: list[int] = []
    for _ in range(8):
        served.serve(REQUESTS // 8)
        blocks.append(settled(sys.getallocatedblocks))
        if sys.platform == "linux":
            resident.append(settled(resident_bytes))

    # Then all were profiled, and once every endpoint is known not even every tenth leaves one block behind
    assert exporter.profiles >= REQUESTS
    kept = [after - before for before, after in pairwise(blocks[2:])]
    # The median, since others live in this process: a leak shows in every eighth, a list that grows in one.
    assert statistics.median(kept) < REQUESTS / 8 / 10, f"blocks by eighth: {blocks}"
    assert not resident or resident[7] - resident[3] < 4 * 2**20

    # And there is no hook, segment or place left
    assert sys.getprofile() is None
    open_segments = [each for each in gc.get_objects() if type(each) is Segment and each.is_open]
    assert open_segments == []
    assert gate._held_slots() == []
