"""One request as the gate sees it when it looks at it, from the start of its root span to the end."""

from __future__ import annotations

from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.endpoint_history import EndpointHistory
from otel_pyinstrument.presences import Presence
from otel_pyinstrument.remote_rules.rules import EndpointRule
from otel_pyinstrument.slot import Reason


class Visit:
    """Profiled or not. The gate fills it in.

    `first` of its endpoint, `alone` on its `thread` when it began, as that thread's `presence` tells;
    `untouched` are the two numbers that both must still be the same at the end of a request that nothing else
    slowed, and `cpu` is the thread's CPU time at its start.
    """

    __slots__ = (
        "alone",
        "choice",
        "cpu",
        "done",
        "endpoint",
        "first",
        "history",
        "is_route",
        "presence",
        "rule",
        "thread",
        "untouched",
    )

    first: bool
    alone: bool
    untouched: tuple[int, int]
    presence: Presence
    thread: int
    cpu: float

    def __init__(
        self,
        endpoint: Endpoint,
        history: EndpointHistory,
        rule: EndpointRule | None,
        choice: tuple[Reason | None, float],
    ) -> None:
        self.endpoint = endpoint
        self.history = history
        self.rule = rule
        self.choice = choice
        """Why it is profiled, or None, and the share of the budget that it must leave."""
        self.is_route = endpoint.is_route
        """May have become known when the request ends."""
        self.done = False
