"""The one path of a trace request, whatever brought it: limit, parse, validate, translate, store, answer.

The acknowledgement rule: an answer means that a majority of the database has every span in its journal,
except those that the partial success counts. Everything that may pass is `TryAgain`; only bytes that no
repetition can mend are `Undecodable`. Fronts (gRPC, later HTTP) decode, call `Ingest.export` and encode.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from collector_receiver.counters import Counters, RefusalLog
from collector_receiver.outcome import Outcome, place_of
from collector_receiver.profile_event import EVENT_NAME
from collector_receiver.projects import Projects
from collector_receiver.translation import Destination, Translator
from profile_store.contracts import StoreUnavailable, Writer
from profile_store.model import IncomingBatch

MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
MIN_WEIGHT_BYTES = 16_384  # what even an empty request occupies while it waits: call, task, documents
# Measured: 128 KiB of plain spans take 1.5 to 3 ms to translate, the call tree of one request 0.8 ms
# (200 nodes) to 64 ms (20,000 nodes); handing over to the thread and back takes 0.1 ms.
MAX_RESOURCES_AND_SCOPES = 131_072  # a Collector may batch spans that each have a resource of their own
LARGE_REQUEST_BYTES = 131_072
OVERLOAD_RETRY_SECONDS = 1.0
STORAGE_RETRY_SECONDS = 2.0
STOPPING_RETRY_SECONDS = 1.0
MAX_PROJECTS_ANNOUNCED = 10_000

logger = logging.getLogger("collector_receiver")

Parse: TypeAlias = Callable[[bytes], ExportTraceServiceRequest]


class IngestRefused(Exception):
    """A request without success. `reason` names the counter; the message may go to the sender."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Undecodable(IngestRefused):
    """The bytes are no trace request: sending them again is useless. gRPC INVALID_ARGUMENT, HTTP 400."""


class Unauthenticated(IngestRefused):
    """Missing or wrong project key, nothing was stored. gRPC UNAUTHENTICATED, HTTP 401."""


class TryAgain(IngestRefused):
    """Some may be stored, nothing is promised. gRPC UNAVAILABLE + RetryInfo, HTTP 503 + Retry-After."""

    def __init__(self, reason: str, message: str, retry_after_seconds: float) -> None:
        super().__init__(reason, message)
        self.retry_after_seconds = retry_after_seconds


def parse_protobuf(body: bytes) -> ExportTraceServiceRequest:
    """The request in `body`.

    Raises:
        Undecodable: not protobuf, not UTF-8 where text belongs, nested deeper than protobuf's 100 levels, or
            more resources and scopes than any real request has.
    """
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise Undecodable("undecodable", "the body is not an ExportTraceServiceRequest in protobuf") from None
    parts = len(request.resource_spans)
    if parts <= MAX_RESOURCES_AND_SCOPES:
        parts += sum(len(resource_spans.scope_spans) for resource_spans in request.resource_spans)
    if parts > MAX_RESOURCES_AND_SCOPES:
        raise Undecodable(
            "too_many_resources", f"the request has more than {MAX_RESOURCES_AND_SCOPES} resources and scopes"
        )
    return request


class Ingest:
    """Takes trace requests in. Belongs to the loop of the store; close it before the store."""

    def __init__(
        self,
        store: Writer,
        projects: Projects,
        *,
        counters: Counters | None = None,
        refusals: RefusalLog | None = None,
        max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT,
    ) -> None:
        self.counters = counters or Counters()
        self._refusals = refusals or RefusalLog()
        self._store = store
        self._projects = projects
        self._max_bytes_in_flight = max_bytes_in_flight
        self._bytes_in_flight = 0
        self._stopping = False
        self._running: set[asyncio.Task[ExportTraceServiceResponse]] = set()
        # Costly requests are parsed and translated one after another on one thread: Python would not run two
        # at once anyway, and their objects weigh many times their bytes.
        self._costly = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="translate")
        self._announced: set[str] = set()

    async def export(
        self, body: bytes, *, project_key: str | None, parse: Parse = parse_protobuf
    ) -> ExportTraceServiceResponse:
        """The answer to one request, given when everything it does not refuse is durable.

        A caller that is cancelled (its client went away) leaves the work running: it is already paid for, and
        its bytes stay counted as in flight until it ends.

        Raises:
            Undecodable, Unauthenticated, TryAgain: see there. Nothing else.
        """
        weight = max(len(body), MIN_WEIGHT_BYTES)
        try:
            self._admit(weight)
        except TryAgain as refused:
            self._count_refusal(refused)
            raise
        task = asyncio.create_task(self._export(body, project_key, parse))
        self._running.add(task)
        task.add_done_callback(lambda done: self._finished(done, weight))
        return await asyncio.shield(task)

    def refuse_new_requests(self) -> None:
        """From now on every new request is `TryAgain`; those that run go on."""
        self._stopping = True

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for running requests, at most `timeout_seconds`."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_seconds)

    async def close(self) -> None:
        """Cancel what still runs and release the thread."""
        self.refuse_new_requests()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._refusals.flush()

    def _admit(self, weight: int) -> None:
        if self._stopping:
            raise TryAgain("stopping", "the receiver is stopping", STOPPING_RETRY_SECONDS)
        if self._bytes_in_flight and self._bytes_in_flight + weight > self._max_bytes_in_flight:
            raise TryAgain("overloaded", "the receiver is busy", OVERLOAD_RETRY_SECONDS)
        self._bytes_in_flight += weight

    def _finished(self, task: asyncio.Task[ExportTraceServiceResponse], weight: int) -> None:
        self._running.discard(task)
        self._bytes_in_flight -= weight
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may be gone

    async def _export(self, body: bytes, project_key: str | None, parse: Parse) -> ExportTraceServiceResponse:
        try:
            return await self._accept(body, project_key, parse)
        except IngestRefused as refused:
            self._count_refusal(refused)
            raise
        except StoreUnavailable as problem:
            logger.debug("storage unavailable: %s", problem)
            refused = TryAgain("storage_unavailable", "the database does not answer", STORAGE_RETRY_SECONDS)
            self._count_refusal(refused)
            raise refused from problem
        except Exception as error:
            # Not about one span (the translator contains those), so it may pass: a repetition cannot lose
            # anything, an answer that is not retryable would. Senders give up after their own limit.
            logger.error("a request failed: %s", place_of(error))
            refused = TryAgain("internal_error", "the receiver failed; see its log", STORAGE_RETRY_SECONDS)
            self._count_refusal(refused)
            raise refused from error

    async def _accept(self, body: bytes, project_key: str | None, parse: Parse) -> ExportTraceServiceResponse:
        if len(body) >= LARGE_REQUEST_BYTES or EVENT_NAME.encode() in body:
            async with self._costly:
                batch, outcome, received = await self._prepare(body, project_key, parse, in_thread=True)
        else:
            batch, outcome, received = await self._prepare(body, project_key, parse, in_thread=False)
        result = await self._store.write(batch)
        for refused in result.refusals:
            if refused.span_ids:
                outcome.reject(refused.reason, len(refused.span_ids))
            else:
                outcome.warn(refused.reason)  # only a profile was lost
        self.counters.new_records += result.new_records
        self.counters.new_profiles += result.new_profiles
        if not result.refusals:
            self._announce_first_profiles(batch)
        return self._answer(outcome, received)

    async def _prepare(
        self, body: bytes, project_key: str | None, parse: Parse, *, in_thread: bool
    ) -> tuple[IncomingBatch, Outcome, int]:
        translator = Translator()
        loop = asyncio.get_running_loop()
        if project_key is not None:
            _require_a_destination([await self._projects.of_key(project_key)])  # before the cost of parsing
        request = await loop.run_in_executor(self._thread, parse, body) if in_thread else parse(body)
        destinations = await self._projects.destinations(request.resource_spans, project_key)
        _require_a_destination(destinations)
        if in_thread:
            batch = await loop.run_in_executor(self._thread, translator.translate, request, destinations)
        else:
            batch = translator.translate(request, destinations)
        return batch, translator.outcome, translator.span_count

    def _answer(self, outcome: Outcome, received: int) -> ExportTraceServiceResponse:
        self.counters.requests["partial" if outcome.rejected else "ok"] += 1
        self.counters.spans_accepted += received - outcome.rejected_spans
        self.counters.spans_rejected.update(outcome.rejected)
        self.counters.warnings.update(outcome.warnings)
        message = outcome.message()
        if not message:
            return ExportTraceServiceResponse()
        self._refusals.note(outcome.rejected + outcome.warnings)
        return ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(
                rejected_spans=outcome.rejected_spans, error_message=message
            )
        )

    def _count_refusal(self, refused: IngestRefused) -> None:
        self.counters.requests[refused.reason] += 1
        self._refusals.note(Counter({refused.reason: 1}))

    def _announce_first_profiles(self, batch: IncomingBatch) -> None:
        """One line for the first profile of each project since the start; all_in_one relies on its form."""
        for item in batch.records:
            record = item.record
            if item.payload is None or record.project_id in self._announced:
                continue
            if len(self._announced) < MAX_PROJECTS_ANNOUNCED:
                self._announced.add(record.project_id)
                logger.info(
                    "first profile received: project=%s record=%s endpoint=%s",
                    record.project_id,
                    record.id,
                    record.endpoint,
                )


def _require_a_destination(destinations: list[Destination]) -> None:
    """Some senders of a request may be refused while others are stored; not all of them."""
    refusals = [destination.refusal for destination in destinations if destination.refusal]
    if refusals and len(refusals) == len(destinations):
        raise Unauthenticated(
            "unauthenticated",
            f"{refusals[0]}: send the project's key as metadata x-project-key or attribute project.key",
        )
