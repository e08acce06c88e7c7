"""A process that serves many requests of every kind, and prints what it holds after each quarter of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio.to_thread
import greenlet
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, use_span

from otel_pyinstrument import hop_patches, private_names, self_test
from otel_pyinstrument.segment import Segment
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.span_processor import ProfilingSpanProcessor

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


def resident_bytes() -> int | None:
    if sys.platform != "linux":
        return None
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def main(request_count: int) -> None:
    private_names.silence_overhead_warning()
    self_test.check_sampler()
    processor = ProfilingSpanProcessor(
        Settings(rate=1.0, cpu_budget=1.0, interval=5.0, max_concurrent=100),
        payload_as_bytes=lambda: False,
        reraise=True,
    )
    exporter = ReadAndForget()
    provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    hop_patches.install()
    assert greenlet.getcurrent() is not None  # loaded, as by SQLAlchemy: then its objects are asked for
    service = Service(provider.get_tracer("test"))
    blocks: list[int] = []
    resident: list[int | None] = []
    for _ in range(4):
        service.serve(request_count // 4)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
        resident.append(resident_bytes())
    held = {
        "profiles": exporter.profiles,
        "blocks": blocks,
        "resident_bytes": resident,
        "has_hook": sys.getprofile() is not None,
        "open_segments": sum(type(each) is Segment and each.is_open for each in gc.get_objects()),
        "held_slots": len(processor.gate._slots.held()),
    }
    service.close()
    print(json.dumps(held))


if __name__ == "__main__":
    main(int(sys.argv[1]))
