"""Which requests are profiled. The hook about doubles the CPU time of a request: the gate is the cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from otel_pyinstrument import native
from otel_pyinstrument.cost_estimate import StandingCost
from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.endpoint_history import EndpointHistory, EndpointTable
from otel_pyinstrument.other_threads import OTHER_THREADS, OtherThreads
from otel_pyinstrument.passages import Passage, Passages
from otel_pyinstrument.path_patterns import PathPatterns
from otel_pyinstrument.presences import Presences
from otel_pyinstrument.remote_rules.rules import NO_RULES, EndpointRule, Rules, rules_of
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.slot import Reason, Slot
from otel_pyinstrument.slots import Slots
from otel_pyinstrument.visit import Visit

DECISIONS: tuple[str, ...] = (
    "profiled",
    "not_chosen",
    "excluded",
    "disabled",
    "budget",
    "concurrency",
    "backlog",
    "unavailable",
)
"""`unavailable`: the request was chosen, but its thread could not be profiled."""

MAX_NEW_PATHS = 100
"""Paths of which nobody knows whether they are endpoints that have a first profile whatever the rate is. Who
asks for paths at random would otherwise have all profiles."""

_RULE_FLOOR = 0.1
_FLOOR = 0.3
"""Shares of a full budget that a request by rule and an ordinary one leave for a new endpoint's first."""

_FORCED: tuple[Reason, float] = ("forced", _RULE_FLOOR)


class Costs(NamedTuple):
    """Estimated CPU seconds that profiling has cost, and what the whole process used in that time.

    `hook` and `encoding` are of profiles; `standing` is what all requests pay because profiling is on. All
    is paid from the budget, of which half is for profiles alone.
    """

    hook: float
    encoding: float
    standing: float
    process: float


class Gate:
    """Chooses by endpoint within a budget of CPU time, a bounded number at a time. Any thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        thread_seconds: Callable[[], float] = time.thread_time,
        process_seconds: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
        other_threads: OtherThreads = OTHER_THREADS,
        rules_clock: Callable[[], float] = time.time,
        span_seconds: float = 0.0,
    ) -> None:
        self._settings = settings
        self._include = PathPatterns(settings.include)
        self._exclude = PathPatterns(settings.exclude)
        self._own_rules = rules_of(settings.endpoint_rates)
        self._thread_seconds = thread_seconds
        self._process_seconds = process_seconds
        self._clock = clock
        self._other_threads = other_threads
        self._rules_clock = rules_clock
        self._span_seconds = span_seconds
        self.reset()
        self.apply(NO_RULES)

    def reset(self) -> None:
        """Forget all slots and draw new random numbers: a forked child starts with its own gate."""
        # An own generator: drawing from the shared one would change the numbers of a seeded application.
        self._random = random.Random()  # noqa: S311 - sampling, not secrets
        self._lock = native.RLock()
        self._standing = standing = StandingCost(self._span_seconds)
        self._slots = Slots(
            self._settings,
            thread_seconds=self._thread_seconds,
            process_seconds=self._process_seconds,
            standing_seconds=lambda: standing.seconds,
            clock=self._clock,
            other_threads=self._other_threads,
        )
        self._presences = Presences()
        self._endpoints = EndpointTable()
        self._passages = Passages()
        self._profiled_paths = 0
        self._decisions = dict.fromkeys(DECISIONS, 0)
        self._process_start = self._process_seconds()

    # --- what the platform says ----------------------------------------------------------------------

    def apply(self, rules: Rules) -> None:
        """From now on `rules` hold beside the settings."""
        self._rules = rules
        self._rate = self._settings.rate if rules.sampling_rate is None else rules.sampling_rate
        patterns = self._include or self._exclude or rules.include or rules.exclude
        self.asks_for_paths = bool(patterns or self._own_rules.endpoints or rules.endpoints)
        with self._lock:
            self._passages.forbid()  # what comes next is looked at by these rules

    # --- a request -----------------------------------------------------------------------------------

    def pass_by(self, span_name: str) -> Passage | None:
        """On the request's thread, at its start: to be told of its end, and nothing else. None: `arrive`.

        To look at each was most of what profiling cost at rest (docs/adr/009).
        """
        history = self._passages.by_name.get(span_name)
        if history is None:
            return None
        presence = self._presences.here()
        with self._lock:
            if not history.passes_left:
                return None
            history.passes_left -= 1
            history.passed += 1
            self._decisions["not_chosen"] += 1
            presence.begin()
        return Passage(history, presence)

    def passed(self, passage: Passage, *, seconds: float, failed: bool) -> None:
        """At the end of the request, after `seconds` of wall time. One that was slow or failed makes the gate
        look at the next ones.
        """
        with self._lock:
            if passage.done:
                return
            passage.done = True
            passage.presence.under_way -= 1
            history = passage.history
            history.seconds += seconds
            slow = seconds >= self._settings.slow_threshold
            if slow or failed:
                self._endpoints.ended(history, 0.0, slow=slow, failed=failed)

    def arrive(self, endpoint: Endpoint, *, forced: bool = False, span_name: str = "") -> Visit | None:
        """On the request's thread, at its start. None: the request is not to be looked at at all.

        `forced`: the application asked for this profile, so the patterns do not matter. `span_name` is what
        its root span begins with; later ones of that name may `pass_by`.
        """
        rules, rule = self._rules, None
        if rules.enabled is False:
            self._count("disabled")
            return None
        if self.asks_for_paths:
            if not (forced or self._wanted(rules, endpoint)):
                self._count("excluded")
                return None
            rule = self._rule_for(endpoint, rules)
        thread, presence = native.thread_id(), self._presences.here()
        with self._lock:
            history = self._endpoints.visit(endpoint.key, is_route=endpoint.is_route)
            self._standing.add_passages(history.stands_for - 1, history.child_spans)
            visit = Visit(endpoint, history, rule, _FORCED)
            visit.first = history.visits <= 1
            visit.presence = presence
            presence.begin()
            visit.alone = presence.under_way == 1
            # The number that both must still have at the end of a request that nothing else touched.
            visit.untouched = (presence.begun, self._slots.taken)
            if self._other_threads.every_thread_pays and self._slots.held():
                visit.untouched = (presence.begun, -1)
            if not forced:
                visit.choice = self._choose(visit, span_name)
                self._decisions["not_chosen"] += visit.choice[0] is None
        visit.thread = thread
        visit.cpu = self._thread_seconds()
        return visit

    def leave(
        self,
        visit: Visit,
        *,
        seconds: float,
        failed: bool,
        refused: bool = False,
        slot: Slot | None = None,
        hooked_seconds: float = 0.0,
        switching_seconds: float = 0.0,
        elsewhere_seconds: float = 0.0,
        comparable: bool = True,
        child_spans: int = 0,
    ) -> float:
        """At the end of the request, after the hook is gone: what the profile cost in CPU seconds.

        `seconds` is the wall time; `refused`: the client was told of a mistake of its own. Of a profiled
        request, with its released `slot`: `hooked_seconds` is the CPU time under its hooks, of which
        `elsewhere_seconds` on other threads than the first, `switching_seconds` that of installing and
        removing them around steps, and `comparable` is False when sampling ended early. `child_spans` have
        ended below its root.
        """
        if visit.done:
            return 0.0
        visit.done = True
        thread_seconds = self._thread_seconds()
        same_thread = native.thread_id() == visit.thread
        threshold = self._settings.slow_threshold
        if visit.rule is not None and visit.rule.slow_threshold is not None:
            threshold = visit.rule.slow_threshold
        with self._lock:
            presence = visit.presence
            presence.under_way -= 1
            begun, hooks = visit.untouched
            alone = visit.alone and same_thread and presence.begun == begun
            cpu = thread_seconds - visit.cpu
            history = visit.history
            self._endpoints.ended(history, seconds, slow=seconds >= threshold, failed=failed)
            if visit.is_route and not history.is_route:
                self._endpoints.name(history)
                self._profiled_paths -= history.profiles > 0
            history.answered = history.answered or not refused
            if slot is not None:
                history.child_spans = child_spans
            self._standing.add(history.child_spans)
            if slot is not None:
                return self._slots.settle(
                    slot,
                    hooked_seconds=hooked_seconds,
                    switching_seconds=switching_seconds,
                    elsewhere_seconds=elsewhere_seconds,
                    own_seconds=cpu if comparable and alone else None,
                    usual_seconds=history.usual_cpu_seconds,
                )
            untouched = hooks == self._slots.taken or not self._other_threads.every_thread_pays
            if alone and untouched and not visit.first:
                history.clean_count += 1
                history.clean_cpu_seconds += cpu
        return 0.0

    def admit(self, visit: Visit) -> Slot | None:
        """A slot for one request, to be released at its end; None when it is not to be profiled.

        On the request's thread, right before the hook goes in.
        """
        reason, floor = visit.choice
        if reason is None:
            return None
        with self._lock:
            refused = self._slots.obstacle(floor)
            if refused is not None:
                self._decisions[refused] += 1
                return None
            self._decisions["profiled"] += 1
            slot = self._slots.take(reason)
            self._profiled_paths += not visit.history.profiles and not visit.history.is_route
            visit.history.profiles += 1
        return slot

    def begin_hook(self, slot: Slot) -> None:
        """The hook is in, and stays until `slot` is released, whatever else its thread does meanwhile."""
        with self._lock:
            self._slots.begin_hook(slot)

    def refuse(self, slot: Slot, visit: Visit) -> None:
        """The hook could not be put in after all: the slot is given back and costs nothing."""
        slot.release()
        with self._lock:
            self._decisions["profiled"] -= 1
            self._decisions["unavailable"] += 1
            visit.history.profiles -= 1
            self._profiled_paths -= not visit.history.profiles and not visit.history.is_route

    def hold(self, recording: object, node_count: int) -> None:
        """Count the nodes of `recording` as waiting until nothing refers to it any more."""
        with self._lock:
            self._slots.hold(recording, node_count)

    def charge_encoding(self, cpu_seconds: float) -> None:
        """A finished tree has taken this much CPU time to encode, on whatever thread."""
        with self._lock:
            self._slots.charge_encoding(cpu_seconds)

    # --- for reports ---------------------------------------------------------------------------------

    def decisions(self) -> dict[str, int]:
        """How many requests met which decision in this process."""
        with self._lock:
            return dict(self._decisions)

    def costs(self) -> Costs:
        """Since this process began to profile."""
        with self._lock:
            self._slots.charge_ended_early()
            return Costs(
                hook=self._slots.hook_seconds,
                encoding=self._slots.encoding_seconds,
                standing=self._standing.seconds,
                process=self._process_seconds() - self._process_start,
            )

    # --- with the lock held, but for _rule_for, _count and _wanted ------------------------------------

    def _rule_for(self, endpoint: Endpoint, rules: Rules) -> EndpointRule | None:
        """The platform's, as far as it decides; else that of the settings."""
        rule = rules.rule_for(endpoint, self._rules_clock()) if rules.endpoints else None
        own = self._own_rules.rule_for(endpoint, 0.0) if self._own_rules.endpoints else None
        if rule is None or own is None or rule.sampling_rate is not None:
            return rule or own
        return rule._replace(sampling_rate=own.sampling_rate)

    def _count(self, decision: str) -> None:
        with self._lock:
            self._decisions[decision] += 1

    def _wanted(self, rules: Rules, endpoint: Endpoint) -> bool:
        for include in (self._include, rules.include):
            if include and not include.match(endpoint.method, endpoint.path):
                return False
        return not any(
            exclude and exclude.match(endpoint.method, endpoint.path)
            for exclude in (self._exclude, rules.exclude)
        )

    def _choose(self, visit: Visit, span_name: str) -> tuple[Reason | None, float]:
        """Why the request is profiled, and the share of the budget that it must leave; None: it is not."""
        rate = self._rate
        rule, history = visit.rule, visit.history
        if rule is not None and rule.sampling_rate is not None:
            return ("rule" if self._happens(rule.sampling_rate) else None), _RULE_FLOOR
        if rate <= 0:
            return None, 1.0
        is_endpoint = self._is_endpoint(history)
        if is_endpoint and not history.profiles and not visit.first:
            # The very first request would show imports and empty caches, and has nothing to compare with.
            return "rate", 0.0
        # With a probability above 1 for rare endpoints there would be fewer than `rate` in all.
        boost = self._endpoints.boost(history) if is_endpoint else 1.0
        own_chance = 1 - (1 - rate) ** boost
        chance, reason = own_chance * history.stands_for, "rate"
        if history.slow_left and self._settings.slow_rate > chance:
            chance, reason = self._settings.slow_rate, "slow"
        if history.failed_left and self._settings.error_rate >= chance:
            chance, reason = self._settings.error_rate, "error"
        if is_endpoint and not (history.slow_left or history.failed_left) and not self.asks_for_paths:
            self._passages.allow(
                visit.endpoint,
                history,
                span_name,
                chance=own_chance,
                random_below=self._random.randrange,
            )
        return (reason if self._happens(chance) else None), _FLOOR

    def _is_endpoint(self, history: EndpointHistory) -> bool:
        """A path without a route of the application is one when it was answered, and not one too many."""
        if history.is_route or not history.answered:
            return history.is_route
        return history.profiles > 0 or self._profiled_paths < MAX_NEW_PATHS

    def _happens(self, chance: float) -> bool:
        return chance >= 1 or self._random.random() < chance
