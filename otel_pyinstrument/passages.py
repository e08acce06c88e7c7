"""Requests that are counted and not looked at, because others of their endpoint are."""

from __future__ import annotations

from collections.abc import Callable

from otel_pyinstrument.endpoint import Endpoint, is_named
from otel_pyinstrument.endpoint_history import MAX_ENDPOINTS, EndpointHistory
from otel_pyinstrument.presences import Presence

_KNOWN_AFTER_VISITS = 100
_MOST_PASSED = 16
_MOST_CHANCE = 0.25
"""One request in so many is looked at of an endpoint that is known, on average, as long as its chance, which
is then that of all of them, stays this small."""


class Passage:
    """One such request, from the start of its root span to the end."""

    __slots__ = ("done", "history", "presence")

    def __init__(self, history: EndpointHistory, presence: Presence) -> None:
        self.history = history
        self.presence = presence
        self.done = False


class Passages:
    """Of which endpoints the next requests pass. Not thread-safe, but for reading `by_name`: the gate holds
    its lock.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, EndpointHistory] = {}
        """By the name that their root spans begin with."""

    def allow(
        self,
        endpoint: Endpoint,
        history: EndpointHistory,
        span_name: str,
        *,
        chance: float,
        random_below: Callable[[int], int],
    ) -> None:
        """Settle how many of the next requests of `endpoint` pass; `chance` is that of each to be profiled.

        At random, so that what comes at every so many requests is not always passed, or never.
        """
        most = min(_MOST_PASSED, int(_MOST_CHANCE / chance)) if chance else _MOST_PASSED
        if most <= 1 or history.visits < _KNOWN_AFTER_VISITS or not is_named(endpoint, span_name):
            return
        if len(self.by_name) >= MAX_ENDPOINTS:
            self.by_name = {}
        self.by_name[span_name] = history
        history.passes_left = random_below(2 * most - 1)

    def forbid(self) -> None:
        """All are looked at, until `allow` says otherwise."""
        self.by_name = {}
