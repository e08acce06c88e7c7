"""What a process remembers of its endpoints: how often, how slow, failed, profiled. Bounded."""

from __future__ import annotations

import math
from collections import OrderedDict

MAX_ENDPOINTS = 500
"""Of those that the application has named, and as many of the paths that anybody may have made up."""

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
        "key",
        "passed",
        "passes_left",
        "profiles",
        "seconds",
        "slow_left",
        "stands_for",
        "visits",
        "weight",
    )

    def __init__(self, key: str) -> None:
        self.key = key
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
        """Whether the application has named it."""
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
        # Apart, so that somebody who asks for paths at random makes nothing forgotten that is an endpoint.
        self._routes: OrderedDict[str, EndpointHistory] = OrderedDict()
        self._paths: OrderedDict[str, EndpointHistory] = OrderedDict()
        self._visits = 0.0
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._routes) + len(self._paths)

    def visit(self, key: str, *, is_route: bool = True) -> EndpointHistory:
        """The history of `key`, richer by one visit and what passed.

        `is_route`: the application has named it. Of its kind, the one not seen for longest makes room.
        """
        history = self._routes.get(key) or self._paths.get(key)
        if history is None:
            history = EndpointHistory(key)
            history.is_route = is_route
            self._add(history)
        elif is_route and not history.is_route:
            self.name(history)
        else:
            self._of_kind(history).move_to_end(key)
        history.stands_for = 1 + history.passed
        history.passed = history.passes_left = 0
        history.visits += history.stands_for
        self._visits += history.stands_for
        history.slow_left -= history.slow_left > 0
        history.failed_left -= history.failed_left > 0
        if self._visits > _FORGET_AFTER_REQUESTS:
            self._fade()
        return history

    def name(self, history: EndpointHistory) -> None:
        """It has become known that the application has named this endpoint."""
        is_here = self._is_here(history)
        if is_here:
            self._of_kind(history).pop(history.key, None)
        history.is_route = True
        if is_here:
            self._add(history)

    def ended(self, history: EndpointHistory, seconds: float, *, slow: bool, failed: bool) -> None:
        """A request of `history` took `seconds` of wall time. After a slow or failed one none passes."""
        if slow:
            history.slow_left = _RECENT_REQUESTS
        if failed:
            history.failed_left = _RECENT_REQUESTS
        if slow or failed:
            history.passes_left = 0
        if not self._is_here(history):
            return  # it has made room meanwhile, or is of the process that this one was forked from
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

    def _of_kind(self, history: EndpointHistory) -> OrderedDict[str, EndpointHistory]:
        return self._routes if history.is_route else self._paths

    def _is_here(self, history: EndpointHistory) -> bool:
        return self._of_kind(history).get(history.key) is history

    def _add(self, history: EndpointHistory) -> None:
        endpoints = self._of_kind(history)
        if len(endpoints) >= MAX_ENDPOINTS:
            _, oldest = endpoints.popitem(last=False)
            self._visits -= oldest.visits
            self._weight -= oldest.weight
            oldest.passes_left = 0
        endpoints[history.key] = history

    def _fade(self) -> None:
        # A copy: a signal handler may make a request in the middle of this one.
        histories = [*self._routes.values(), *self._paths.values()]
        for history in histories:
            history.visits /= 2
            history.seconds /= 2
            history.weight = math.sqrt(history.seconds)
            history.clean_count /= 2
            history.clean_cpu_seconds /= 2
        self._visits = sum(history.visits for history in histories)
        self._weight = sum(history.weight for history in histories)
