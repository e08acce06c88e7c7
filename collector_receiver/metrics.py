"""What the receiver counted, as Prometheus metrics (docs/receiver.md lists them).

Every sample names the process that counted it, so that several processes of one receiver can be told apart
and summed. Labels are bounded: reasons and codes are fixed lists, projects see `counters.ByProject`.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from collector_receiver.ingest import Ingest

PREFIX: Final = "collector_receiver"
_PAGE_BYTES = resource.getpagesize()


def families(ingest: Ingest, *, process: int, ready: bool, started_at: float) -> Iterator[Metric]:
    """The metrics of this process. `started_at` is its start in seconds since 1970."""
    yield from _Families(str(process)).of(ingest, ready=ready, started_at=started_at)


class _Families:
    def __init__(self, process: str) -> None:
        self._process = process

    def of(self, ingest: Ingest, *, ready: bool, started_at: float) -> Iterator[Metric]:
        counters = ingest.counters
        yield self._answers(ingest)
        yield self._request_bytes(ingest)
        yield self._by(
            "outcomes", "Export requests by outcome: ok, partial or a reason.", "outcome", counters.requests
        )
        yield self._by(
            "retryable", "Export requests that were told to come again.", "reason", counters.retryable
        )
        yield self._by(
            "ignored", "Requests with nothing to store, answered with success.", "signal", counters.ignored
        )
        yield self._count("spans_received", "Spans that were understood.", counters.spans_received)
        yield self._count("spans_accepted", "Spans acknowledged as durable.", counters.spans_accepted)
        yield self._by("spans_rejected", "Spans refused for good.", "reason", counters.spans_rejected)
        yield self._count(
            "log_profiles_received",
            "Profiles in log records that were understood.",
            counters.log_profiles_received,
        )
        yield self._count(
            "log_profiles_accepted", "Profiles in log records acknowledged.", counters.log_profiles_accepted
        )
        yield self._by(
            "log_profiles_rejected",
            "Profiles in log records refused for good.",
            "reason",
            counters.log_profiles_rejected,
        )
        yield self._by("warnings", "Spans kept with a change.", "reason", counters.warnings)
        yield self._count("records_stored", "Records that were not there before.", counters.new_records)
        yield self._count("records_repeated", "Records that were there already.", counters.repeated_records)
        yield self._count("profiles_stored", "Profiles that were not there before.", counters.new_profiles)
        yield self._by(
            "project_spans",
            "Spans and profiles understood, by project id.",
            "project",
            counters.project_spans.items(),
        )
        yield self._by(
            "project_rate_limited",
            "Requests that came too fast, by project id.",
            "project",
            counters.project_rate_limited.items(),
        )
        yield self._store_seconds(ingest)
        yield self._gauge("bytes_in_flight", "Bytes of requests under way.", ingest.admission.bytes_in_flight)
        yield self._gauge(
            "bytes_in_flight_limit", "Above it requests are refused.", ingest.admission.max_bytes
        )
        yield self._gauge("requests_in_flight", "Requests that are worked on.", ingest.running_requests)
        yield self._gauge("ready", "1 when the database answers and the receiver does not stop.", int(ready))
        yield self._gauge("start_time_seconds", "Start of the process since 1970.", started_at)
        yield self._gauge(
            "uptime_seconds", "Seconds since the start of the process.", time.time() - started_at
        )
        yield self._gauge("resident_memory_bytes", "Memory that the process occupies.", _resident_bytes())
        yield self._count("cpu_seconds", "CPU time of the process.", time.process_time())
        yield self._build()

    def _count(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=("process",))
        family.add_metric((self._process,), value)
        return family

    def _by(self, name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=("process", label))
        for key, value in values.items():
            family.add_metric((self._process, key), value)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=("process",))
        family.add_metric((self._process,), value)
        return family

    def _answers(self, ingest: Ingest) -> Metric:
        labels = ("process", "protocol", "encoding", "signal", "code")
        family = CounterMetricFamily(
            f"{PREFIX}_requests", "Requests by the code of their answer.", labels=labels
        )
        for answered, count in ingest.counters.answers.items():
            family.add_metric((self._process, *answered), count)
        return family

    def _request_bytes(self, ingest: Ingest) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_request_bytes",
            "Bytes of request bodies after decompression.",
            labels=("process", "protocol", "signal"),
        )
        for (protocol, signal), size in ingest.counters.request_bytes.items():
            family.add_metric((self._process, protocol, signal), size)
        return family

    def _store_seconds(self, ingest: Ingest) -> Metric:
        took = ingest.counters.store_seconds
        family = HistogramMetricFamily(
            f"{PREFIX}_store_seconds", "How long a durable write took.", labels=("process",)
        )
        family.add_metric((self._process,), took.cumulative(), took.sum_seconds)
        return family

    def _build(self) -> Metric:
        family = GaugeMetricFamily(
            f"{PREFIX}_build_info", "What runs; always 1.", labels=("process", "version", "python")
        )
        family.add_metric((self._process, _version(), platform.python_version()), 1)
        return family


def _version() -> str:
    try:
        return version("otel-pyinstrument")
    except PackageNotFoundError:  # runs from a checkout that was never installed
        return "unknown"


def _resident_bytes() -> int:
    """0 where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
