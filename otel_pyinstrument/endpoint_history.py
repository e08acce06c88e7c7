"""What a process remembers of its endpoints: how often, how slow, failed, profiled. Bounded."""

from __future__ import annotations

import math
from collections import OrderedDict

MAX_ENDPOINTS = 500
_RECENT_REQUESTS = 20
_FORGET_AFTER_REQUESTS = 20_000


class EndpointHistory:
    """One endpoint. Numbers fade: they are halved from time to time."""

    __slots__ = (
        "answered",
        "child_spans",
        "clean_count",
        "clean_cpu_seconds",
        "failed_left",
        "is_route",
        "passed",
        "passes_left",
        "profiles",
        "seconds",
        "slow_left",
        "stands_for",
        "visits",
        "weight",
    )

    def __init__(self) -> None:
        self.visits = 0.0
        self.seconds = 0.0
        self.weight = 0.0
        self.profiles = 0
        self.slow_left = 0
        self.failed_left = 0
        self.clean_count = 0.0
        self.clean_cpu_seconds = 0.0
        self.child_spans = 0
        """Of the last profiled request."""
        self.is_route = False
        self.answered = False
        """Whether a request was not refused, as those for paths that are none are."""
        self.passes_left = 0
        """How many of the next requests are only counted."""
        self.passed = 0
        """How many were since the last visit."""
        self.stands_for = 1
        """Requests, of the last visit: itself, and what was only counted before it."""

    @property
    def usual_cpu_seconds(self) -> float | None:
        """CPU time of a request that no profiler touches; None when too few were seen."""
        return self.clean_cpu_seconds / self.clean_count if self.clean_count >= 2 else None


class EndpointTable:
    """The endpoints seen last. Not thread-safe: the gate holds its lock."""

    def __init__(self) -> None:
        self._endpoints: OrderedDict[str, EndpointHistory] = OrderedDict()
        self._visits = 0.0
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._endpoints)

    def visit(self, key: str) -> EndpointHistory:
        """The history of `key`, richer by one visit and what passed. The endpoint not seen for longest makes
        room.
        """
        history = self._endpoints.get(key)
        if history is None:
            if len(self._endpoints) >= MAX_ENDPOINTS:
                _, oldest = self._endpoints.popitem(last=False)
                self._visits -= oldest.visits
                self._weight -= oldest.weight
                oldest.passes_left = 0
            history = self._endpoints[key] = EndpointHistory()
        else:
            self._endpoints.move_to_end(key)
        history.stands_for = 1 + history.passed
        history.passed = history.passes_left = 0
        history.visits += history.stands_for
        self._visits += history.stands_for
        history.slow_left -= history.slow_left > 0
        history.failed_left -= history.failed_left > 0
        if self._visits > _FORGET_AFTER_REQUESTS:
            self._fade()
        return history

    def ended(self, history: EndpointHistory, seconds: float, *, slow: bool, failed: bool) -> None:
        """A request of `history` took `seconds` of wall time."""
        if slow:
            history.slow_left = _RECENT_REQUESTS
        if failed:
            history.failed_left = _RECENT_REQUESTS
        history.seconds += max(seconds, 0.0)
        weight = math.sqrt(history.seconds)
        self._weight += weight - history.weight
        history.weight = weight

    def boost(self, history: EndpointHistory) -> float:
        """How much more than its share of the requests this endpoint should have of the profiles.

        Profiles are divided by the square root of the time that endpoints take in all: of two equally fast
        ones the rarer, of two equally frequent ones the slower gets more per request. Weighted by visits, the
        mean is 1.
        """
        if self._weight <= 0 or history.weight <= 0:
            return 1.0
        return self._visits * history.weight / (self._weight * history.visits)

    def _fade(self) -> None:
        for history in self._endpoints.values():
            history.visits /= 2
            history.seconds /= 2
            history.weight = math.sqrt(history.seconds)
            history.clean_count /= 2
            history.clean_cpu_seconds /= 2
        self._visits = sum(history.visits for history in self._endpoints.values())
        self._weight = sum(history.weight for history in self._endpoints.values())
