"""How much one project may send, so that its flood is not everybody's: token buckets for spans and bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from collector_receiver.refusals import RateLimited
from profile_store.model import AttributeValue

BURST_SECONDS = 5.0  # a silent project has saved up this much
MAX_DEBT_SECONDS = 30.0  # the longest wait that a single huge request can cause
MAX_REMEMBERED = 10_000

SPANS_PER_SECOND = "max_spans_per_second"
BYTES_PER_SECOND = "max_bytes_per_second"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Amounts per second; 0 means no limit."""

    spans: float = 0.0
    bytes: float = 0.0

    def of_project(self, config: Mapping[str, AttributeValue]) -> RateLimit:
        """This limit, where a project's config says nothing else."""
        return RateLimit(
            spans=_amount(config.get(SPANS_PER_SECOND), self.spans),
            bytes=_amount(config.get(BYTES_PER_SECOND), self.bytes),
        )


@dataclass(slots=True)
class Demand:
    """What one request wants to store for one project, and seconds of the limit that were taken for it."""

    limit: RateLimit
    spans: int = 0
    bytes: int = 0
    spans_seconds: float = 0.0
    bytes_seconds: float = 0.0


class RateLimiter:
    """Decides by what projects sent to this process. Used on one loop.

    A request that is let in is taken whole: it may leave a debt, which the next ones wait for. So a request
    larger than the limit of a second passes too, just not often.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def check(self, project_id: str, limit: RateLimit) -> None:
        """Whether a request of this project has a chance, before anything is spent on it.

        Raises:
            RateLimited: with the time to wait. Nothing was taken.
        """
        if limit.spans or limit.bytes:
            self._require_no_debt({project_id: Demand(limit)})

    def take(self, demands: Mapping[str, Demand]) -> None:
        """Account for one request: for all of its projects, or for none.

        Raises:
            RateLimited: one of the projects is over its limit. Nothing was taken.
        """
        limited = {
            name: demand for name, demand in demands.items() if demand.limit.spans or demand.limit.bytes
        }
        if not limited:
            return
        self._require_no_debt(limited)
        for project_id, demand in limited.items():
            self._bucket(project_id).take(demand)  # forgotten since, if there are too many

    def give_back(self, demands: Mapping[str, Demand]) -> None:
        """What `take` has taken for a request that could not be stored: it comes again, and counts then."""
        for project_id, demand in demands.items():
            if project_id in self._buckets:
                self._buckets[project_id].give_back(demand)

    def _require_no_debt(self, demands: Mapping[str, Demand]) -> None:
        waits = {
            name: self._bucket(name).wait(demand.limit, self._clock()) for name, demand in demands.items()
        }
        project_id, wait = max(waits.items(), key=lambda item: item[1])
        if wait > 0:
            raise RateLimited(project_id, wait)

    def _bucket(self, project_id: str) -> _Bucket:
        bucket = self._buckets.get(project_id)
        if bucket is None:
            bucket = self._buckets[project_id] = _Bucket()
            if len(self._buckets) > MAX_REMEMBERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(project_id)
        return bucket


class _Bucket:
    """What one project has left: seconds of its limit, for spans and for bytes. Below 0 is debt."""

    __slots__ = ("_bytes", "_filled_at", "_spans")

    def __init__(self) -> None:
        self._spans = self._bytes = BURST_SECONDS
        self._filled_at: float | None = None

    def wait(self, limit: RateLimit, now: float) -> float:
        """Seconds until a request is let in; 0 for now."""
        elapsed = 0.0 if self._filled_at is None else now - self._filled_at
        self._filled_at = now
        self._spans = min(self._spans + elapsed, BURST_SECONDS)
        self._bytes = min(self._bytes + elapsed, BURST_SECONDS)
        return max(-self._spans if limit.spans else 0.0, -self._bytes if limit.bytes else 0.0, 0.0)

    def take(self, demand: Demand) -> None:
        if demand.limit.spans:
            left = max(self._spans - demand.spans / demand.limit.spans, -MAX_DEBT_SECONDS)
            demand.spans_seconds, self._spans = self._spans - left, left
        if demand.limit.bytes:
            left = max(self._bytes - demand.bytes / demand.limit.bytes, -MAX_DEBT_SECONDS)
            demand.bytes_seconds, self._bytes = self._bytes - left, left

    def give_back(self, demand: Demand) -> None:
        # No more than a burst, which `wait` sees to before anything is taken.
        self._spans += demand.spans_seconds
        self._bytes += demand.bytes_seconds


def _amount(value: AttributeValue, default: float) -> float:
    """A wrong value in a project's config must not stop its spans: it counts as none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return default
    return float(value)
