"""Which requests the gate admits, with clocks that the tests move."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_pyinstrument import slots as slots_module
from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.endpoint_history import MAX_ENDPOINTS
from otel_pyinstrument.gate import MAX_NEW_PATHS, Gate
from otel_pyinstrument.other_threads import OtherThreads
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.slot import Slot
from otel_pyinstrument.visit import Visit
from tests.otel_pyinstrument.gate_service import ORDERS, Service, endpoint


class Finished:
    """Stands where a recording stands."""


@pytest.fixture
def make() -> Callable[..., Service]:
    return Service


def admitted(gate: Gate, *, forced: bool = False) -> Slot | None:
    """The slot of one more request of the same endpoint."""
    visit = gate.arrive(ORDERS, forced=forced)
    return None if visit is None else gate.admit(visit)


# --- the rate ----------------------------------------------------------------------------------------


def test_everything_is_admitted_at_rate_one_without_a_limit(make) -> None:
    service = make()

    assert [service.serve(endpoint(f"/{i % 7}")) for i in range(1000)] == ["rate"] * 1000


def test_the_rate_is_the_share_that_is_admitted(make) -> None:
    # Given endpoints of every kind
    service = make(rate=0.1)
    kinds = [endpoint(f"/{i}") for i in range(20)]
    pick = random.Random(3)

    # When many requests come
    chosen = Counter(
        service.serve(pick.choices(kinds, weights=range(1, 21))[0], seconds=pick.random() / 10)
        for _ in range(20_000)
    )

    # Then about that share is profiled
    assert chosen["rate"] == pytest.approx(2000, rel=0.1)
    assert set(chosen) == {"rate", None}


def test_rare_and_slow_endpoints_have_more_than_their_share(make) -> None:
    service = make(rate=0.05)
    pick = random.Random(4)
    chosen: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for _ in range(20_000):
        kind = pick.choices(["often", "rare", "slow"], weights=[90, 5, 5])[0]
        seen[kind] += 1
        chosen[kind] += (
            service.serve(endpoint(f"/{kind}"), seconds=0.5 if kind == "slow" else 0.01) is not None
        )

    share = {kind: chosen[kind] / seen[kind] for kind in seen}

    assert share["slow"] > 2 * share["rare"] > 4 * share["often"] > 0


def test_every_endpoint_has_a_profile_by_its_second_request(make) -> None:
    service = make(rate=0.000_001)

    assert [service.serve(endpoint("/a")) for _ in range(4)] == [None, "rate", None, None]
    assert [service.serve(endpoint("/b")) for _ in range(4)] == [None, "rate", None, None]


def path(text: str) -> Endpoint:
    """That somebody has asked for, and no route of the application."""
    return Endpoint(f"GET {text}", "GET", text, is_route=False)


def test_paths_that_do_not_exist_have_no_profile_of_their_own(make) -> None:
    service = make(rate=0.000_001)

    assert [service.serve(path("/wp-admin"), refused=True) for _ in range(10)] == [None] * 10


def test_a_path_that_is_answered_is_an_endpoint(make) -> None:
    service = make(rate=0.000_001)

    asked = [service.serve(path("/login"), refused=refused) for refused in (True, True, False, False)]

    assert asked == [None, None, None, "rate"]


def test_a_path_that_was_answered_stays_an_endpoint_when_it_refuses_once(make) -> None:
    # Given a path that is answered and then refuses, while nothing is profiled
    service = make(rate=0.0)
    for refused in (False, True):
        service.serve(path("/login"), refused=refused)

    # When new endpoints are profiled, then it is one
    service.rules('{"sampling_rate": 0.000001}')
    assert service.serve(path("/login")) == "rate"


def test_a_path_whose_route_is_known_at_the_end_is_an_endpoint_even_if_it_refuses(make) -> None:
    service = make(rate=0.000_001)

    assert [service.serve(path("/login"), refused=True, is_route=True) for _ in range(2)] == [None, "rate"]


def test_whatever_answers_every_path_does_not_take_all_profiles(make) -> None:
    # Given an application without routes that answers any path
    service = make(rate=0.000_001)
    for number in range(MAX_NEW_PATHS):
        assert [service.serve(path(f"/{number}")) for _ in range(2)] == [None, "rate"]

    # When more of them are asked for, then they have no profile of their own
    assert [service.serve(path("/more")) for _ in range(3)] == [None] * 3

    # And what has a route still has
    assert [service.serve(endpoint("/orders")) for _ in range(2)] == [None, "rate"]


def test_answered_paths_that_turn_out_to_be_routes_do_not_count_as_paths(make) -> None:
    service = make(rate=1.0)
    for number in range(2 * MAX_NEW_PATHS):
        assert service.serve(path(f"/{number}"), is_route=True) == "rate"

    service.rules('{"sampling_rate": 0.000001}')
    assert [service.serve(path("/more")) for _ in range(2)] == [None, "rate"]


def test_paths_that_had_their_profile_stay_endpoints_when_there_are_too_many(make) -> None:
    # Given a slow path that had its first profile, and then too many others
    service = make(rate=0.000_001)
    assert [service.serve(path("/slow"), seconds=5.0) for _ in range(2)] == [None, "rate"]
    for number in range(MAX_NEW_PATHS):
        for _ in range(2):
            service.serve(path(f"/{number}"), seconds=0.001)

    # When the rate allows one in ten, then the slow one has more than its share as before
    service.rules('{"sampling_rate": 0.1}')
    chosen = sum(service.serve(path("/slow"), seconds=5.0) is not None for _ in range(100))
    assert chosen > 20


def test_who_asks_for_random_paths_leaves_the_profiles_to_others(make) -> None:
    # Given default settings, and ten endpoints
    def profiles(scans: int) -> int:
        service = make(rate=Settings().rate, cpu_budget=Settings().cpu_budget)
        found = 0
        for number in range(20_000):
            found += service.serve(endpoint(f"/{number % 10}"), seconds=0.1) is not None
            for _ in range(2 * scans):
                service.serve(path(f"/scan/{number}"), cpu=0.001, seconds=0.001, refused=True)
        return found

    # Then these have nearly as many profiles beside two requests of a scanner for each of theirs
    assert profiles(scans=1) > 0.7 * profiles(scans=0) > 0


def test_who_asks_for_random_paths_makes_no_endpoint_forgotten(make) -> None:
    # Given an endpoint that is always slow, and profiled when it was
    service = make(rate=0.000_001, slow_rate=1.0, slow_threshold=1.0)
    for _ in range(3):
        service.serve(endpoint("/slow"), seconds=5.0)

    # When somebody asks for more paths than are remembered before its next request
    for number in range(2 * MAX_ENDPOINTS):
        service.serve(path(f"/scan/{number}"), refused=True)

    # Then it is known to be slow
    assert service.serve(endpoint("/slow")) == "slow"


def test_a_request_whose_thread_cannot_be_profiled_was_not_the_first(make) -> None:
    service = make(rate=0.000_001)
    service.serve()

    # When the engine refuses
    visit = service.gate.arrive(ORDERS)
    slot = service.gate.admit(visit)
    service.gate.refuse(slot, visit)
    service.gate.leave(visit, seconds=0.1, failed=False)

    # Then the next one has its turn
    assert service.gate.decisions()["unavailable"] == 1
    assert service.serve() == "rate"
    assert service.gate.decisions()["profiled"] == 1


def test_paths_whose_threads_cannot_be_profiled_leave_their_places_to_others(make) -> None:
    # Given as many answered paths as have a profile of their own, none of which the engine could profile
    service = make(rate=0.000_001)
    for number in range(MAX_NEW_PATHS):
        service.serve(path(f"/{number}"))
        visit = service.gate.arrive(path(f"/{number}"))
        service.gate.refuse(service.gate.admit(visit), visit)
        service.gate.leave(visit, seconds=0.1, failed=False)

    # Then another one has its profile
    assert [service.serve(path("/more")) for _ in range(2)] == [None, "rate"]


def test_random_numbers_of_a_seeded_application_stay_the_same(make) -> None:
    # Given an application that seeds the shared generator
    random.seed(5)
    expected = random.random()
    random.seed(5)

    # When the gate decides
    service = make(rate=0.5)
    for _ in range(100):
        service.serve()

    assert random.random() == expected


# --- slow and failed ---------------------------------------------------------------------------------


def test_an_endpoint_that_was_slow_has_its_own_rate_for_a_while(make) -> None:
    # Given an endpoint that has its first profile, and then a slow request
    service = make(rate=0.000_001, slow_rate=1.0, slow_threshold=0.5)
    for _ in range(3):
        service.serve()
    service.serve(seconds=0.5)

    # Then its next requests are profiled, and later ones not
    assert [service.serve() for _ in range(25)] == ["slow"] * 19 + [None] * 6
    assert service.serve(endpoint("/other")) is None


def test_an_endpoint_that_failed_has_its_own_rate_for_a_while(make) -> None:
    service = make(rate=0.000_001, error_rate=1.0)
    for _ in range(3):
        service.serve()
    service.serve(failed=True)

    assert [service.serve() for _ in range(20)] == ["error"] * 19 + [None]


def test_of_two_equal_rates_that_of_failures_is_the_reason(make) -> None:
    # Given an endpoint that was slow and failed
    service = make(rate=0.000_001, slow_rate=1.0, error_rate=1.0, slow_threshold=0.5)
    for _ in range(3):
        service.serve()
    service.serve(seconds=0.5, failed=True)

    assert service.serve() == "error"


def test_rate_zero_means_none_even_of_slow_ones(make) -> None:
    service = make(rate=0.0, slow_rate=1.0, error_rate=1.0)

    assert {service.serve(seconds=9, failed=True) for _ in range(50)} == {None}


def test_a_forced_request_is_profiled_whatever_the_rate(make) -> None:
    service = make(rate=0.0)

    slot = admitted(service.gate, forced=True)

    assert slot.reason == "forced"
    assert admitted(make(rate=0.0).gate) is None


# --- include and exclude -----------------------------------------------------------------------------


def test_excluded_requests_are_not_looked_at(make) -> None:
    service = make(exclude=("/health", "OPTIONS"))

    assert service.serve(endpoint("/health")) is None
    assert service.serve(endpoint("/orders", "OPTIONS")) is None
    assert service.serve(endpoint("/orders")) == "rate"
    assert service.gate.decisions()["excluded"] == 2


def test_only_included_requests_are_profiled_and_exclude_wins(make) -> None:
    service = make(include=("/api/*",), exclude=("/api/health",))

    assert service.serve(endpoint("/api/orders")) == "rate"
    assert service.serve(endpoint("/api/health")) is None
    assert service.serve(endpoint("/orders")) is None


# --- rules of the platform ---------------------------------------------------------------------------


def test_a_rule_holds_for_its_endpoint_until_it_expires(make) -> None:
    # Given a rule for ten minutes
    service = make(rate=0.000_001)
    for _ in range(3):
        service.serve()
    service.rules('{"endpoint_configs": {"GET /orders": {"sampling_rate": 1, "expires_at": 1000600}}}')

    # Then it decides, for that endpoint
    assert [service.serve() for _ in range(3)] == ["rule"] * 3
    assert service.serve(endpoint("/other")) is None

    # And no more afterwards
    service.date += 600
    assert [service.serve() for _ in range(3)] == [None] * 3


def test_a_rule_finds_routes_and_paths(make) -> None:
    service = make(rate=0.0)
    service.rules(
        '{"endpoint_configs": {"GET /a/{order_id}": {"sampling_rate": 1}, "GET /b/7": {"sampling_rate": 1}}}'
    )

    assert service.serve(Endpoint("GET /a/{}", "GET", "/a/12")) == "rule"
    assert service.serve(Endpoint("GET /b/{}", "GET", "/b/7")) == "rule"
    assert service.serve(Endpoint("GET /b/{}", "GET", "/b/8")) is None


def test_a_rule_may_move_the_slow_threshold_alone(make) -> None:
    service = make(rate=0.000_001, slow_rate=1.0)
    service.rules('{"endpoint_configs": {"GET /orders": {"slow_threshold": 0.1}}}')
    for _ in range(3):
        service.serve()

    service.serve(seconds=0.2)

    assert service.serve() == "slow"


def test_the_platform_can_change_the_rate_and_switch_profiling_off(make) -> None:
    service = make(rate=0.0)
    service.rules('{"sampling_rate": 1}')
    assert service.serve() == "rate"

    service.rules('{"sampling_rate": 1, "enabled": false}')
    assert service.serve() is None
    assert service.gate.decisions()["disabled"] == 1

    service.rules("{}")
    assert service.serve() is None


def test_patterns_of_the_platform_hold_beside_the_settings(make) -> None:
    service = make(exclude=("/health",))
    service.rules('{"exclude_paths": ["/ping"], "include_patterns": ["/p*", "/h*"]}')

    assert service.serve(endpoint("/health")) is None
    assert service.serve(endpoint("/ping")) is None
    assert service.serve(endpoint("/orders")) is None
    assert service.serve(endpoint("/products")) == "rate"


# --- the budget --------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_the_budget_wins_over_every_rate(budget: float, make) -> None:
    # Given settings and rules that want everything
    service = make(rate=1.0, cpu_budget=budget, slow_rate=1.0, slow_threshold=0)
    service.rules('{"endpoint_configs": {"GET /rule": {"sampling_rate": 1}}}')

    # When the process works for a long time
    for i in range(50_000):
        service.serve(endpoint(("/rule", "/slow", f"/{i}")[i % 3]), failed=i % 5 == 0)

    # Then profiling has cost that share of its CPU time, and not much less
    assert budget * 0.5 <= service.extra / service.cpu <= budget * 1.15
    assert service.gate.decisions()["budget"] > 10_000


@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_the_budget_wins_over_what_the_application_asks_for(budget: float, make) -> None:
    # Given an application that profiles a function of its own at each call
    service = make(rate=0.0, cpu_budget=budget)

    # When the process works for a long time
    reasons = {service.serve(forced=True) for _ in range(50_000)}

    # Then that has cost its share too, and not more
    assert reasons == {"forced", None}
    assert budget * 0.5 <= service.extra / service.cpu <= budget * 1.15
    assert service.gate.decisions()["budget"] > 10_000


def test_the_estimate_is_what_profiling_has_cost(make) -> None:
    service = make(rate=0.1)
    for i in range(2_000):
        service.serve(endpoint(f"/{i % 3}"), cpu=0.01 * (1 + i % 3))

    assert service.gate.costs().hook == pytest.approx(service.extra, rel=0.05)
    assert service.gate.costs().process == pytest.approx(service.cpu)


def test_a_request_pays_for_the_whole_thread_only_while_it_holds_it(make) -> None:
    # Given two requests during which their thread works 9 times as much for others, with 10 ms of their own
    service = make()
    costs: list[float] = []
    for holds_thread in (True, False):
        visit = service.gate.arrive(ORDERS)
        slot = service.gate.admit(visit)
        if holds_thread:
            service.gate.begin_hook(slot)
        other = service.gate.arrive(endpoint("/other"))
        service.cpu += 0.1
        slot.release()

        # When they end
        costs.append(service.gate.leave(visit, seconds=1, failed=False, slot=slot, hooked_seconds=0.01))
        service.gate.leave(other, seconds=1, failed=False)

    # Then the one whose hook was there all the time pays for 100 ms, the other for its 10
    assert costs == pytest.approx([0.1 * (1 - 1 / 1.8), 0.01 * (1 - 1 / 3)])


def test_a_profile_that_ended_early_is_charged_although_its_span_is_dropped(make) -> None:
    # Given a profile that ended after 1 s of CPU time, of a request that goes on
    service = make()
    slot = service.gate.admit(service.gate.arrive(ORDERS))
    service.gate.begin_hook(slot)
    service.cpu += 1
    slot.end_early(1.0, 0.0)
    service.cpu += 1

    # When nobody ends its span
    del slot
    gc.collect()

    assert service.gate.costs().hook == pytest.approx(1 - 1 / 1.8)


def test_profiles_that_follow_each_other_on_a_thread_count_each_second_once(make) -> None:
    # Given greenlets of one thread: the second is profiled when the profile of the first has ended early
    service = make()
    first = service.gate.arrive(ORDERS)
    ended = service.gate.admit(first)
    service.gate.begin_hook(ended)
    service.cpu += 1
    ended.end_early(1.0, 0.0)
    service.cpu += 5
    second = service.gate.arrive(ORDERS)
    slot = service.gate.admit(second)
    service.gate.begin_hook(slot)
    service.cpu += 1
    slot.release()

    # When both end
    costs = [
        service.gate.leave(second, seconds=1, failed=False, slot=slot),
        service.gate.leave(first, seconds=7, failed=False, slot=ended, hooked_seconds=1, comparable=False),
    ]

    # Then each costs what its own hook did
    assert costs == pytest.approx([1 - 1 / 1.8] * 2)
    assert service.gate.costs().hook == pytest.approx(sum(costs))


def test_profiles_of_a_thread_that_ended_early_at_once_count_its_time_once(make) -> None:
    # Given two greenlets of one thread, under the hook from 0 to 5 and from 0 to 8
    service = make()
    slots = [service.gate.admit(service.gate.arrive(ORDERS)) for _ in range(2)]
    for slot in slots:
        service.gate.begin_hook(slot)
    service.cpu = 5
    slots[0].end_early(5.0, 0.0)
    service.cpu = 8

    # When the gate has not looked before both have ended
    slots[1].end_early(8.0, 0.0)

    assert service.gate.costs().hook == pytest.approx(8 * (1 - 1 / 1.8))


def test_a_profile_that_ends_after_one_that_ended_early_costs_the_rest_of_their_thread(make) -> None:
    # Given two greenlets of one thread, under the hook from 0 to 10 and from 0 to 20
    service = make()
    visits = [service.gate.arrive(ORDERS) for _ in range(2)]
    slots = [service.gate.admit(visit) for visit in visits]
    for slot in slots:
        service.gate.begin_hook(slot)
    service.cpu = 10
    slots[0].end_early(10.0, 0.0)

    # When the gate has not looked before the request of the second ends
    service.cpu = 20
    slots[1].release()
    cost = service.gate.leave(visits[1], seconds=20, failed=False, slot=slots[1], comparable=False)

    # Then
    assert cost == pytest.approx(10 * (1 - 1 / 1.8))
    assert service.gate.costs().hook == pytest.approx(20 * (1 - 1 / 1.8))


def test_a_hook_that_was_gone_at_once_counts_nothing_of_the_next_on_its_thread(make) -> None:
    # Given a profile that had ended before the gate heard of its hook
    service = make()
    first = service.gate.arrive(ORDERS)
    gone = service.gate.admit(first)
    gone.end_early(0.0, 0.0)
    service.gate.begin_hook(gone)
    service.cpu += 5

    # When another one on its thread is profiled beyond its end
    second = service.gate.arrive(ORDERS)
    slot = service.gate.admit(second)
    service.gate.begin_hook(slot)
    service.gate.leave(first, seconds=5, failed=False, slot=gone, comparable=False)
    service.cpu += 1
    slot.release()
    service.gate.leave(second, seconds=1, failed=False, slot=slot)

    assert service.gate.costs().hook == pytest.approx(1 - 1 / 1.8)


def test_what_a_request_did_elsewhere_after_its_profile_ended_is_charged_at_its_end(make) -> None:
    # Given a profile that ended after 1 s of CPU time, and was charged
    service = make()
    visit = service.gate.arrive(ORDERS)
    slot = service.gate.admit(visit)
    service.gate.begin_hook(slot)
    service.cpu += 1
    slot.end_early(1.0, 0.0)
    assert service.gate.costs().hook == pytest.approx(1 - 1 / 1.8)

    # When the request ends, whose work on another thread was sampled for 2 s
    cost = service.gate.leave(
        visit, seconds=3, failed=False, slot=slot, hooked_seconds=3, elsewhere_seconds=2, comparable=False
    )

    assert cost == service.gate.costs().hook == pytest.approx(3 * (1 - 1 / 1.8))


def test_what_was_charged_is_not_given_back_when_less_is_told_at_the_end(make) -> None:
    # Given a profile that ended after 1 s of CPU time, and was charged
    service = make()
    visit = service.gate.arrive(ORDERS)
    slot = service.gate.admit(visit)
    slot.end_early(1.0, 0.0)
    charged = service.gate.costs().hook
    assert charged > 0

    # When the request ends with half of that
    service.gate.leave(visit, seconds=1, failed=False, slot=slot, hooked_seconds=0.5, comparable=False)

    assert service.gate.costs().hook == charged


def test_a_burst_is_bounded_by_what_the_budget_holds(make) -> None:
    # Given a process that has been saving for hours
    service = make(cpu_budget=0.01)
    service.cpu += 10_000

    # When a thousand requests come at once
    for _ in range(1000):
        service.serve()

    # Then not more than it could hold and the burst itself has earned was spent
    assert service.extra <= 0.3 + 0.01 * (service.cpu - 10_000)


def test_requests_under_way_count_before_their_cost_is_known(make) -> None:
    # Given a full budget of 0.3 s, of which 0.21 s are for everyone, and requests that are estimated at 5 ms
    service = make(cpu_budget=0.01)
    service.cpu += 10_000

    slots = [service.gate.admit(service.gate.arrive(ORDERS)) for _ in range(1000)]

    assert 30 < sum(slot is not None for slot in slots) < 50


def test_a_new_endpoint_has_its_profile_although_others_use_up_the_budget(make) -> None:
    # Given an endpoint that takes all there is
    service = make(cpu_budget=0.01)
    for _ in range(5_000):
        service.serve()
    assert service.gate.decisions()["budget"] > 4_000

    # Then there is something left for one that is new
    assert [service.serve(endpoint("/new")) for _ in range(2)] == [None, "rate"]


def test_encoding_is_charged(make) -> None:
    service = make(cpu_budget=0.01)
    service.gate.charge_encoding(0.5)

    assert service.serve() is None
    assert service.gate.decisions()["budget"] == 1
    assert service.gate.costs().encoding == 0.5


def test_requests_that_are_not_profiled_have_a_standing_cost_by_their_usual_spans(make) -> None:
    # Given an endpoint with 40 spans below its root, which had a profile once; another without spans
    service = make()
    service.serve(child_spans=40)
    service.rules('{"sampling_rate": 0}')
    before = service.gate.costs()

    # When 100 requests of the one and 10 of the other are not profiled
    assert [service.serve(child_spans=40) for _ in range(100)] == [None] * 100
    assert [service.serve(endpoint("/health")) for _ in range(10)] == [None] * 10

    # Then each counts as many spans, the root as 70 of them, and no profile is charged
    after = service.gate.costs()
    spans = 100 * (40 + 70) + 10 * 70
    assert after.standing - before.standing == pytest.approx(spans * 6 * 1e-6)
    assert (after.hook, after.encoding) == (before.hook, before.encoding)


@pytest.mark.parametrize("child_spans", [0, 10, 1_000])
def test_profiles_and_what_requests_pay_at_rest_share_the_budget(make, child_spans: int) -> None:
    # Given requests of 0.1 s that pay 0.4 % at rest, 0.5 %, or 6 % for their many spans
    service = make(cpu_budget=0.01)

    # When it has served for 5,000 s
    for _ in range(50_000):
        service.serve(cpu=0.1, seconds=0.1, child_spans=child_spans)

    # Then all together is 1 %; where requests alone pay half of that and more, profiles have the other half
    costs = service.gate.costs()
    standing, profiles = costs.standing / costs.process, (costs.hook + costs.encoding) / costs.process
    assert profiles == pytest.approx(max(0.01 - standing, 0.005), rel=0.1)


def test_a_fork_starts_with_no_standing_cost(make) -> None:
    service = make()
    service.serve(child_spans=40)
    assert service.gate.costs().standing > 0

    service.gate.reset()

    assert service.gate.costs().standing == 0


# --- limits ------------------------------------------------------------------------------------------


def test_a_released_slot_is_free_again(make) -> None:
    gate = make(max_concurrent=1).gate
    slot = admitted(gate)
    assert admitted(gate) is None

    slot.release()
    slot.release()

    second = admitted(gate)
    assert second is not None
    assert admitted(gate) is None
    assert gate.decisions()["concurrency"] == 2


def test_a_place_is_free_again_after_the_maximum_duration(make) -> None:
    # Given a request whose thread blocks, so that it cannot give its place back
    service = make(max_concurrent=1, max_duration=30.0)
    blocked = admitted(service.gate)
    service.now += 29.9
    assert admitted(service.gate) is None

    # When its time is over
    service.now += 0.2

    assert admitted(service.gate) is not None
    assert blocked.held


def test_where_every_thread_pays_a_hook_that_outlives_its_place_is_charged() -> None:
    # Given a thread that blocks under its hook for longer than the maximum duration, and uses no CPU
    now, process = 0.0, 0.0
    other_threads = OtherThreads(
        every_thread_pays=True, thread_seconds=lambda: 0.0, process_seconds=lambda: process
    )
    gate = Gate(
        Settings(rate=1.0, cpu_budget=1.0, max_duration=30.0),
        thread_seconds=lambda: 0.0,
        process_seconds=lambda: process,
        clock=lambda: now,
        other_threads=other_threads,
    )
    blocked = gate.admit(gate.arrive(ORDERS))
    other_threads.hook_begins(blocked)
    gate.begin_hook(blocked)
    now = 60.0

    # When the others use 9 s until the next profile
    process = 9.0
    visit = gate.arrive(ORDERS)
    slot = gate.admit(visit)
    gate.begin_hook(slot)
    slot.release()
    gate.leave(visit, seconds=0, failed=False, slot=slot)

    # Then the gate knows what that hook has cost them
    assert blocked.held
    assert gate.costs().hook == pytest.approx(9 * (1 - 1 / 1.8))


def test_where_every_thread_pays_a_request_below_a_hook_does_not_tell_what_is_usual() -> None:
    # Given a request of another thread that is profiled all the time
    cpu = 0.0
    gate = Gate(
        Settings(rate=0.0, cpu_budget=1.0),
        thread_seconds=lambda: cpu,
        process_seconds=lambda: cpu,
        other_threads=OtherThreads(every_thread_pays=True),
    )
    with ThreadPoolExecutor(1) as other_thread:
        profiled = other_thread.submit(admitted, gate, forced=True).result()

    def serve(cpu_seconds: float) -> Visit:
        nonlocal cpu
        visit = gate.arrive(ORDERS)
        cpu += cpu_seconds
        gate.leave(visit, seconds=1, failed=False)
        return visit

    # When requests take twice their time below its hook, and later what they always do
    for _ in range(5):
        serve(0.02)
    profiled.release()
    for _ in range(5):
        visit = serve(0.01)

    # Then the latter is usual
    assert visit.history.usual_cpu_seconds == pytest.approx(0.01)


def test_where_every_thread_pays_a_request_on_an_event_loop_is_charged_for_the_others() -> None:
    # Given a process that has used 50 s under a hook before this gate was made
    process = 0.0
    other_threads = OtherThreads(
        every_thread_pays=True, thread_seconds=lambda: 0.0, process_seconds=lambda: process
    )
    other_threads.hook_begins("before")
    process = 50.0
    gate = Gate(
        Settings(rate=1.0, cpu_budget=1.0),
        thread_seconds=lambda: 0.0,
        process_seconds=lambda: process,
        other_threads=other_threads,
    )
    other_threads.hook_ends("before")

    # When two requests have a hook for a turn each, during which other threads use 9 s, and 90 s between
    visits = [gate.arrive(ORDERS) for _ in range(2)]
    slots = [gate.admit(visit) for visit in visits]
    for turn in slots:
        other_threads.hook_begins(turn)
        process += 9.0
        other_threads.hook_ends(turn)
        process += 90.0
    costs: list[float] = []
    for visit, slot in zip(visits, slots, strict=True):
        slot.release()
        costs.append(gate.leave(visit, seconds=200, failed=False, slot=slot))

    # Then the turns are charged, once
    assert sum(costs) == gate.costs().hook == pytest.approx(18 * (1 - 1 / 1.8))


def test_a_forgotten_slot_is_free_again(make) -> None:
    gate = make(max_concurrent=1).gate
    admitted(gate)
    gc.collect()

    assert admitted(gate) is not None


def test_forgetting_runs_no_python_in_the_application(make) -> None:
    # Given a slot and a recording that are dropped without a word
    gate = make(max_concurrent=1).gate
    forgotten = [admitted(gate), Finished()]
    gate.hold(forgotten[1], 1)
    calls: list[str] = []

    # When they go, in the middle of whatever the application does
    sys.setprofile(lambda frame, event, _argument: calls.append(f"{event} {frame.f_code.co_name}"))
    del forgotten[:]
    sys.setprofile(None)

    # Then no finalizer ran, in which the exception of a signal handler would be lost
    assert [call for call in calls if call.startswith("call")] == []


def test_threads_never_get_more_slots_than_there_are(make) -> None:
    # Given many threads that ask at once
    gate = make(max_concurrent=3).gate
    slots: list[object] = []
    barrier = threading.Barrier(16)

    def ask() -> None:
        barrier.wait()
        slots.append(gate.admit(gate.arrive(ORDERS)))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(slot is not None for slot in slots) == 3


def test_nothing_is_admitted_while_finished_trees_pile_up(make, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given trees that nobody encodes
    monkeypatch.setattr(slots_module, "_MAX_WAITING_NODES", 100)
    gate = make().gate
    waiting = [Finished(), Finished()]
    gate.hold(waiting[0], 50)
    gate.hold(waiting[1], 50)
    assert admitted(gate) is None
    assert gate.decisions()["backlog"] == 1

    # When one of them is encoded, or its span dropped
    waiting.pop()
    gc.collect()

    assert admitted(gate) is not None


def test_a_request_that_ends_twice_counts_once(make) -> None:
    service = make(rate=0.0)
    visit = service.gate.arrive(ORDERS)
    service.gate.leave(visit, seconds=1, failed=False)
    service.gate.leave(visit, seconds=1, failed=False)

    assert visit.history.seconds == 1


def test_nothing_is_kept_of_threads_and_requests_that_are_over(make) -> None:
    # Given requests on many threads, some ended by another thread
    service = make(rate=0.5)
    handed_over: list[Visit] = []

    def work(number: int) -> None:
        service.serve()
        if number % 2:
            handed_over.append(service.gate.arrive(ORDERS))

    for number in range(50):
        thread = threading.Thread(target=work, args=(number,))
        thread.start()
        thread.join()
    for visit in handed_over:
        service.gate.leave(visit, seconds=1, failed=False)

    assert service.gate._slots.held() == []
    assert service.gate._slots._estimate._covered == {}


def test_a_forked_child_starts_with_its_own_places_and_numbers(make) -> None:
    # Given a gate with all places taken
    gate = make(max_concurrent=1).gate
    parents = admitted(gate)
    before = gate._random

    # When it is reset, as after a fork
    gate.reset()

    # Then there is a place, and what the parent's slot does concerns nobody
    slot = admitted(gate)
    assert slot is not None
    parents.release()
    assert admitted(gate) is None
    assert gate._random is not before
    assert gate.decisions()["profiled"] == 1
