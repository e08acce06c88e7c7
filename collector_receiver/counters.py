"""What the receiver did since its start, in one object, and at most one log line a minute about refusals."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from collector_receiver.outcome import Outcome

SignalName: TypeAlias = Literal["traces", "logs", "metrics"]

logger = logging.getLogger("collector_receiver")

REFUSAL_LOG_INTERVAL_SECONDS = 60.0
MAX_PROJECTS_COUNTED = 100
OTHER_PROJECTS = "other"
STORE_SECONDS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Answered(NamedTuple):
    """Requests that look alike: how they came, and the code that they were answered with."""

    protocol: Literal["grpc", "http"]
    encoding: Literal["protobuf", "json", "other"]
    signal: SignalName | Literal["none"]
    code: str
    """A gRPC status name, or an HTTP status."""


class Histogram:
    """Durations in seconds, counted by upper bound."""

    def __init__(self, bounds: tuple[float, ...] = STORE_SECONDS_BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bound how many took at most so long; the last is "+Inf"."""
        total, result = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            result.append((bound, float(total)))
        return result


class ByProject:
    """Counts by project id, for at most `MAX_PROJECTS_COUNTED` of them; the others are one together."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, project_id: str, count: int) -> None:
        known = project_id in self._counts or len(self._counts) < MAX_PROJECTS_COUNTED
        self._counts[project_id if known else OTHER_PROJECTS] += count

    def items(self) -> Mapping[str, int]:
        return self._counts


@dataclass(slots=True)
class Counters:
    """Counts since the start. Used on the receiver's loop only. Reasons are those of docs/receiver.md."""

    requests: Counter[str] = field(default_factory=Counter[str])
    """Requests by answer: ok, partial, or the reason why there was no success."""
    spans_accepted: int = 0
    spans_rejected: Counter[str] = field(default_factory=Counter[str])
    warnings: Counter[str] = field(default_factory=Counter[str])
    log_profiles_accepted: int = 0
    log_profiles_rejected: Counter[str] = field(default_factory=Counter[str])
    new_records: int = 0
    new_profiles: int = 0
    ignored: Counter[str] = field(default_factory=Counter[str])
    """Requests that are answered with nothing to store: metrics, and logs without a profile."""
    answers: Counter[Answered] = field(default_factory=Counter[Answered])
    request_bytes: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Bytes of bodies after decompression, by protocol and signal."""
    retryable: Counter[str] = field(default_factory=Counter[str])
    """Requests that are to come again, by reason: a part of `requests`."""
    spans_received: int = 0
    """Spans of requests that were understood, before they are stored; again when they come again."""
    log_profiles_received: int = 0
    repeated_records: int = 0
    """Records that were stored already when they came."""
    store_seconds: Histogram = field(default_factory=Histogram)
    """How long writing took, also when it failed."""
    project_spans: ByProject = field(default_factory=ByProject)
    """Spans and profiles received, as above, of each project."""
    project_rate_limited: ByProject = field(default_factory=ByProject)
    """Requests that came again because a project sent too much."""

    def understood(self, signal: SignalName, received: int) -> None:
        """A request was translated; whether it can be stored is not known yet."""
        if signal == "traces":
            self.spans_received += received
        else:
            self.log_profiles_received += received

    def count(self, signal: SignalName, received: int, outcome: Outcome) -> None:
        """A request that was answered: `received` spans or profiles, less those that were rejected."""
        accepted = received - outcome.rejected_count
        if signal == "traces":
            self.spans_accepted += accepted
            self.spans_rejected.update(outcome.rejected)
        elif received:
            self.log_profiles_accepted += accepted
            self.log_profiles_rejected.update(outcome.rejected)
        else:
            self.ignored[signal] += 1
        self.requests["partial" if outcome.rejected else "ok"] += 1
        self.warnings.update(outcome.warnings)


class RefusalLog:
    """Collects refusals and writes one warning for all of them, at most once a minute and at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._not_before = clock()

    def note(self, reasons: Counter[str]) -> None:
        self._waiting.update(reasons)
        if self._waiting and self._clock() >= self._not_before:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, if anything is."""
        if not self._waiting:
            return
        self._not_before = self._clock() + REFUSAL_LOG_INTERVAL_SECONDS
        counts = ", ".join(f"{reason} {count}" for reason, count in self._waiting.most_common())
        logger.warning("refused or changed: %s (docs/receiver.md explains each)", counts)
        self._waiting.clear()
