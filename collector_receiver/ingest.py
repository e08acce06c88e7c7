"""The one path of a request, whatever brought it: limit, parse, validate, translate, store, answer.

The acknowledgement rule: an answer means that a majority of the database has every span in its journal,
except those that the partial success counts. Everything that may pass is `TryAgain`; only bytes that no
repetition can mend are `Undecodable`. Fronts (gRPC, HTTP) decode, call `Ingest.export` and encode.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from google.protobuf.message import Message

from collector_receiver.admission import MAX_BYTES_IN_FLIGHT, MIN_WEIGHT_BYTES, Admission, Place, stopping
from collector_receiver.counters import Counters, RefusalLog
from collector_receiver.group_commit import GroupCommit
from collector_receiver.outcome import place_of
from collector_receiver.profile_event import DecodeBudget, TooCostlyHere
from collector_receiver.projects import KEY_REFUSALS, Projects
from collector_receiver.rate_limit import Demand, RateLimiter
from collector_receiver.refusals import IngestRefused, RateLimited, TryAgain, Unauthenticated
from collector_receiver.signals import TRACES, Encoding, Parse, Parsed, Signal
from collector_receiver.translation import Destination, Translated
from profile_store.contracts import StoreUnavailable, Writer, WriteResult
from profile_store.ending import end
from profile_store.model import IncomingBatch

# Measured: 128 KiB of plain spans, or 160 of JSON, take 1.5 to 3 ms to translate; handing over to the thread
# and back takes 0.1 ms, and each of the two waits for the other's turn. What profiles may cost here,
# `DecodeBudget` says.
LARGE_REQUEST_BYTES: Mapping[Encoding, int] = {"protobuf": 131_072, "json": 163_840}
MANY_OBJECTS = 5_000
"""In JSON, where an empty one may take as long as a span of 500 bytes: 6 us."""
MANY_VALUES = 8_000
"""Commas in JSON, where a number of a metric may take two bytes and 0.3 us."""
STORAGE_RETRY_SECONDS = 2.0
MAX_PROJECTS_ANNOUNCED = 10_000

Result = TypeVar("Result")

logger = logging.getLogger("collector_receiver")


class Ingest:
    """Takes requests in. Belongs to the loop of the store; close it before the store."""

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
        self._commits = GroupCommit(store)
        self._projects = projects
        self.admission = Admission(max_bytes_in_flight)
        self._rates = RateLimiter()
        self._repeated = 0
        self._running: set[asyncio.Task[Message]] = set()
        # Costly requests are parsed and translated one after another on one thread: Python would not run two
        # at once anyway, and their objects weigh many times their bytes.
        self._costly = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="translate")
        self._announced: set[str] = set()

    async def export(
        self,
        body: bytes,
        *,
        project_key: str | None,
        signal: Signal[Any] = TRACES,
        encoding: Encoding = "protobuf",
    ) -> Message:
        """The answer to one request, given when everything it does not refuse is durable.

        A caller that is cancelled (its client went away) leaves the work running: it is already paid for, and
        its bytes stay counted as in flight until it ends.

        Raises:
            Undecodable, Unauthenticated, TryAgain: see there. Nothing else.
        """
        try:
            place = self.admission.enter(max(len(body), MIN_WEIGHT_BYTES))
        except TryAgain as refused:
            self.count_refusal(refused)
            raise
        parse, costly = signal.parse[encoding], _is_large(body, encoding)
        task = asyncio.create_task(self._export(signal, body, project_key, parse, in_thread=costly))
        self._running.add(task)
        started = time.perf_counter()
        task.add_done_callback(lambda done: self._finished(done, place, started))
        return await asyncio.shield(task)

    @property
    def running_requests(self) -> int:
        """Requests that are worked on."""
        return len(self._running)

    def refuse_new_requests(self) -> None:
        """From now on every new request is `TryAgain`; those that run go on."""
        self.admission.closed = True

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for running requests, at most `timeout_seconds`; what still runs then fails as `stopping`."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_seconds)
            for task in late:
                task.cancel()

    async def close(self) -> None:
        """End what still runs, as `stopping`, and release the thread."""
        self.refuse_new_requests()
        await end(*self._running)
        await self._commits.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._refusals.flush()

    def _finished(self, task: asyncio.Task[Message], place: Place, started: float) -> None:
        self._running.discard(task)
        place.leave()
        # Asking for its exception marks it as seen: the caller may be gone.
        if not task.cancelled() and task.exception() is None:
            self.admission.took(time.perf_counter() - started)

    async def _export(
        self,
        signal: Signal[Parsed],
        body: bytes,
        project_key: str | None,
        parse: Parse[Parsed],
        *,
        in_thread: bool,
    ) -> Message:
        demands: dict[str, Demand] = {}
        try:
            try:
                translated = await self._prepare(
                    signal, body, project_key, parse, demands, in_thread=in_thread
                )
                return await self._store_and_answer(signal, translated)
            except BaseException:
                self._rates.give_back(demands)
                raise
        except IngestRefused as refused:
            self.count_refusal(refused)
            raise
        except asyncio.CancelledError:
            # By `drain` or `close`: a caller that is cancelled leaves this running. Passed on, it would be
            # answered as the front's server answers a cancellation, which may be final.
            refused = stopping()
            self.count_refusal(refused)
            raise refused from None
        except StoreUnavailable as problem:
            logger.debug("storage unavailable: %s", problem)
            refused = TryAgain("storage_unavailable", "the database does not answer", STORAGE_RETRY_SECONDS)
            self.count_refusal(refused)
            raise refused from problem
        except Exception as error:
            # Not about one span (the translator contains those), so it may pass: a repetition cannot lose
            # anything, an answer that is not retryable would. Senders give up after their own limit.
            logger.error("a request failed: %s", place_of(error))
            refused = TryAgain("internal_error", "the receiver failed; see its log", STORAGE_RETRY_SECONDS)
            self.count_refusal(refused)
            raise refused from error

    async def _store_and_answer(self, signal: Signal[Parsed], translated: Translated) -> Message:
        outcome = translated.outcome
        self.counters.understood(signal.name, translated.received)
        result = await self._write(translated.batch)
        for refused in result.refusals:
            if refused.span_ids:
                outcome.reject(refused.reason, len(refused.span_ids))
            else:
                outcome.warn(refused.reason)  # only a profile was lost
        self.counters.new_records += result.new_records
        self.counters.new_profiles += result.new_profiles
        self._count_repeated(_repeated_records(translated.batch, result))
        self._announce_first_profiles(translated.batch, result)
        self.counters.count(signal.name, translated.received, outcome)
        message = outcome.message()
        if message:
            self._refusals.note(outcome.rejected + outcome.warnings)
        return signal.answer(outcome.rejected_count, message)

    def _count_repeated(self, records: int) -> None:
        """What is new of a group is told to one of its batches, so that one has fewer than none repeated."""
        self._repeated += records
        if self._repeated > 0:
            self.counters.repeated_records += self._repeated
            self._repeated = 0

    async def _write(self, batch: IncomingBatch) -> WriteResult:
        # Metrics, or nothing but refused spans: that needs no database.
        if not (batch.records or batch.child_spans or batch.profiles):
            return WriteResult(new_records=0, new_profiles=0, refusals=())
        started = time.perf_counter()
        try:
            return await self._commits.write(batch)
        finally:
            self.counters.store_seconds.observe(time.perf_counter() - started)

    async def _prepare(
        self,
        signal: Signal[Parsed],
        body: bytes,
        project_key: str | None,
        parse: Parse[Parsed],
        demands: dict[str, Demand],
        *,
        in_thread: bool,
    ) -> Translated:
        """`demands` is empty and receives what the projects are charged for."""
        if project_key is not None:
            known = await self._projects.of_key(project_key)  # before the cost of parsing
            _require_a_destination([known])
            self._rates.check(known.project_id, known.limit)
        destinations: Sequence[Destination] | None = None
        if not in_thread:
            try:
                request = parse(body, on_loop=True)
                destinations = await self._destinations(signal, request, project_key, demands)
                return signal.translate(request, destinations, DecodeBudget.on_loop())
            except TooCostlyHere:
                pass
        async with self._costly:
            request = await self._in_thread(parse, body)
            if destinations is None:
                destinations = await self._destinations(signal, request, project_key, demands)
            return await self._in_thread(signal.translate, request, destinations, DecodeBudget())

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _destinations(
        self,
        signal: Signal[Parsed],
        request: Parsed,
        project_key: str | None,
        demands: dict[str, Demand],
    ) -> Sequence[Destination]:
        senders = signal.senders(request)
        destinations = await self._projects.destinations(senders, project_key)
        _require_a_destination(destinations)
        self._account(signal, senders, destinations, demands)
        return destinations

    def _account(
        self,
        signal: Signal[Any],
        senders: Sequence[Any],
        destinations: Sequence[Destination],
        demands: dict[str, Demand],
    ) -> None:
        """Count what each project sent, and refuse the whole request when one of them sends too much."""
        for sender, destination in zip(senders, destinations, strict=True):
            if not destination.project_id:
                continue
            demand = demands.setdefault(destination.project_id, Demand(destination.limit))
            demand.spans += signal.size(sender)
            if destination.limit.bytes:
                demand.bytes += sender.ByteSize()
        for project_id, demand in demands.items():
            self.counters.project_spans.add(project_id, demand.spans)
        self._rates.take(demands)

    def count_refusal(self, refused: IngestRefused) -> None:
        """Count a request that a front refused before `export`; those of `export` are counted there."""
        self.counters.requests[refused.reason] += 1
        if isinstance(refused, TryAgain):
            self.counters.retryable[refused.reason] += 1
        if isinstance(refused, RateLimited):
            self.counters.project_rate_limited.add(refused.project_id, 1)
        self._refusals.note(Counter({refused.reason: 1}))

    def _announce_first_profiles(self, batch: IncomingBatch, result: WriteResult) -> None:
        if not result.refusals:
            for item in batch.records:
                if item.payload is not None:
                    self._announce(item.record.project_id, item.record.id, item.record.endpoint)
        for joined in result.joined:
            self._announce(joined.project_id, joined.record_id, joined.endpoint)

    def _announce(self, project_id: str, record_id: str, endpoint: str) -> None:
        """One line for the first profile of each project since the start; all_in_one relies on its form."""
        if project_id not in self._announced and len(self._announced) < MAX_PROJECTS_ANNOUNCED:
            self._announced.add(project_id)
            logger.info(
                "first profile received: project=%s record=%s endpoint=%s", project_id, record_id, endpoint
            )


def _is_large(body: bytes, encoding: Encoding) -> bool:
    if len(body) >= LARGE_REQUEST_BYTES[encoding]:
        return True
    return encoding == "json" and (body.count(b"{") > MANY_OBJECTS or body.count(b",") > MANY_VALUES)


def _require_a_destination(destinations: list[Destination]) -> None:
    """Some senders of a request may be refused while others are stored; not all of them for their key."""
    refusals = [destination.refusal for destination in destinations if destination.refusal in KEY_REFUSALS]
    if refusals and len(refusals) == len(destinations):
        raise Unauthenticated(
            "unauthenticated",
            f"{refusals[0]}: send the project's key as metadata x-project-key or attribute project.key",
        )


def _repeated_records(batch: IncomingBatch, result: WriteResult) -> int:
    """How many records of `batch` were stored already; negative where `result` tells of others too."""
    refused = {span_id for refusal in result.refusals for span_id in refusal.span_ids}
    kept = sum(item.record.span_id not in refused for item in batch.records)
    return kept - result.new_records
