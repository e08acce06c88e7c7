"""Requests that the gate counts and does not look at, because it looks at others of their endpoint."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.trace import SpanKind

from otel_pyinstrument import installed, profile
from otel_pyinstrument.endpoint import Endpoint, is_named
from otel_pyinstrument.endpoint_history import MAX_ENDPOINTS, EndpointTable
from otel_pyinstrument.passages import Passages
from tests.otel_pyinstrument.gate_service import ORDERS, Service, endpoint

RARE = endpoint("/rare")


@pytest.fixture
def known() -> Service:
    """A service that has seen enough of one endpoint."""
    service = Service(rate=0.001)
    for _ in range(100):
        service.serve()
    return service


def looks_of(service: Service, requests: int, kind: Endpoint = ORDERS) -> int:
    """At how many of the next requests the gate looks."""
    looks = 0
    for _ in range(requests):
        passage = service.gate.pass_by(kind.key)
        if passage is None:
            looks += 1
            service.gate.leave(service.gate.arrive(kind, span_name=kind.key), seconds=0.01, failed=False)
        else:
            service.gate.passed(passage, seconds=0.01, failed=False)
    return looks


def test_at_most_requests_of_a_known_endpoint_the_gate_does_not_look(known: Service) -> None:
    looks = looks_of(known, 3_200)

    assert 150 <= looks <= 260  # one in 16


def test_what_comes_at_every_so_many_requests_is_looked_at_as_often(known: Service) -> None:
    # Given requests of which each seventeenth is of the same kind
    looked_at = Counter[int]()

    # When many come
    for number in range(17_000):
        looked_at[number % 17] += looks_of(known, 1)

    # Then the gate has looked at one in sixteen of each kind
    assert len(looked_at) == 17
    assert all(30 <= looks <= 100 for looks in looked_at.values()), looked_at


def test_at_a_new_endpoint_the_gate_looks_each_time(known: Service) -> None:
    assert looks_of(known, 50, RARE) == 50


def test_where_many_are_chosen_the_gate_looks_each_time() -> None:
    service = Service(rate=0.2)
    for _ in range(100):
        service.serve()

    assert looks_of(service, 50) == 50


def test_the_rate_stays_the_share_that_is_profiled() -> None:
    # Given two endpoints, one of which is rare
    service = Service(rate=0.02)
    kinds = [ORDERS] * 19 + [RARE]

    # When many requests come
    chosen = Counter(service.serve(kinds[number % 20]) for number in range(40_000))

    # Then so many are profiled as if the gate had looked at each, and each is counted once
    assert chosen["rate"] == pytest.approx(800, rel=0.15)
    decisions = service.gate.decisions()
    assert decisions["profiled"] == chosen["rate"]
    assert decisions["not_chosen"] == 40_000 - chosen["rate"]


def test_what_passed_counts_as_visits_of_its_endpoint(known: Service) -> None:
    looks_of(known, 1_000)
    while known.gate.pass_by(ORDERS.key) is not None:
        pass
    history = known.gate.arrive(ORDERS).history

    assert history.visits > 1_100
    assert history.seconds == pytest.approx(100 * 0.02 + 1_000 * 0.01)
    assert known.gate._endpoints._visits == history.visits


@pytest.mark.parametrize(
    ("outcome", "reason"), [({"seconds": 5.0}, "slow"), ({"seconds": 0.01, "failed": True}, "error")]
)
def test_one_that_was_slow_or_failed_makes_the_gate_look_at_the_next(outcome: dict, reason: str) -> None:
    # Given a service that profiles what was slow or failed each time, and a request that passes
    service = Service(rate=0.001, slow_rate=1.0, error_rate=1.0, slow_threshold=1.0)
    for _ in range(100):
        service.serve()
    passage = service.gate.pass_by(ORDERS.key)
    while passage is None:
        service.serve()
        passage = service.gate.pass_by(ORDERS.key)

    # When it ends badly
    service.gate.passed(passage, **{"failed": False, **outcome})

    # Then the next ones are looked at, and profiled
    assert [service.serve() for _ in range(19)] == [reason] * 19


@pytest.mark.parametrize("seed", range(10))
def test_one_that_was_looked_at_and_slow_makes_the_gate_look_at_the_next(seed: int) -> None:
    # Given a service that profiles what was slow each time, and a request that does not pass
    service = Service(rate=0.001, slow_rate=1.0, slow_threshold=1.0)
    for _ in range(150):
        service.serve()
    history = service.gate._passages.by_name[ORDERS.key]
    service.gate._random.seed(seed)
    while history.passes_left:
        service.serve()

    # When it is slow
    service.serve(seconds=5.0)

    # Then the next one is looked at, and profiled
    assert service.serve() == "slow"


def test_rules_that_arrive_hold_for_the_very_next_request(known: Service) -> None:
    # Given an endpoint whose next request would pass
    while known.gate._passages.by_name[ORDERS.key].passes_left == 0:
        known.serve()

    # When the platform wants each of its requests
    known.rules('{"endpoint_configs": {"GET /orders": {"sampling_rate": 1, "expires_at": 1000600}}}')

    # Then it is profiled
    assert known.serve() == "rule"


def test_where_patterns_decide_the_gate_looks_each_time() -> None:
    service = Service(rate=0.001, exclude=("/health",))
    for _ in range(100):
        service.serve()

    assert looks_of(service, 50) == 50


@pytest.mark.parametrize(
    ("known_as", "name", "expected"),
    [
        (Endpoint("GET /orders/{}", "GET", "/orders/7"), "GET /orders/<int:id>", True),
        (Endpoint("GET /orders/{}", "GET", ""), "GET orders/<int:id>", True),
        (Endpoint("GET /orders/{}", "GET", ""), "POST /orders/<int:id>", False),
        (Endpoint("GET /orders/{}", "GET", ""), "GET", False),
        (Endpoint("GET /orders/{}", "GET", ""), "", False),
        (Endpoint("GET /" + "a" * 199, "GET", ""), "GET /" + "a" * 300, False),
        (Endpoint("GET /", "GET", "/"), "GET /", True),
        (Endpoint("GET /", "GET", "/"), "GET", False),
        (Endpoint("GET /orders/{}", "GET", ""), "GET /orders", False),
        (Endpoint("GET /orders/7", "GET", "/orders/7", is_route=False), "GET /orders/7", False),
    ],
)
def test_only_a_name_that_is_method_and_route_tells_the_endpoint(
    known_as: Endpoint, name: str, expected: bool
) -> None:
    assert is_named(known_as, name) is expected


def test_an_endpoint_whose_name_does_not_tell_it_is_looked_at_each_time() -> None:
    service = Service(rate=0.001)
    for _ in range(100):
        service.serve()
    for _ in range(100):
        assert service.gate.pass_by("GET") is None
        service.gate.leave(service.gate.arrive(ORDERS, span_name="GET"), seconds=0.01, failed=False)


def test_a_request_beside_one_that_passes_does_not_tell_what_is_usual(known: Service) -> None:
    # Given a request that passes, and what is known of usual ones
    while (passage := known.gate.pass_by(ORDERS.key)) is None:
        known.serve()
    visit = known.gate.arrive(ORDERS)
    before = visit.history.clean_count

    # When another one on its thread is looked at meanwhile
    known.gate.leave(visit, seconds=0.01, failed=False)
    known.gate.passed(passage, seconds=0.01, failed=False)

    # Then its CPU time is not taken for that of a request alone, and that of the next one is
    assert visit.history.clean_count == before
    known.gate.leave(known.gate.arrive(ORDERS), seconds=0.01, failed=False)
    assert visit.history.clean_count == before + 1


def test_a_request_during_which_one_passed_does_not_tell_what_is_usual(known: Service) -> None:
    # Given one that is looked at, alone on its thread when it began
    while known.gate._passages.by_name[ORDERS.key].passes_left == 0:
        known.serve()
    visit = known.gate.arrive(RARE)
    known.gate.leave(visit, seconds=0.01, failed=False)
    visit = known.gate.arrive(RARE)
    before = visit.history.clean_count

    # When another one passes on its thread before it ends
    known.gate.passed(known.gate.pass_by(ORDERS.key), seconds=0.01, failed=False)
    known.gate.leave(visit, seconds=0.01, failed=False)

    # Then its CPU time is not taken for that of a request alone
    assert visit.history.clean_count == before


def test_a_passage_that_ends_twice_counts_once(known: Service) -> None:
    while (passage := known.gate.pass_by(ORDERS.key)) is None:
        known.serve()
    known.gate.passed(passage, seconds=1, failed=False)
    seconds = passage.history.seconds

    known.gate.passed(passage, seconds=1, failed=False)

    assert passage.history.seconds == seconds
    assert passage.presence.under_way == 0


def test_what_passes_has_a_smaller_standing_cost(known: Service) -> None:
    # Given an endpoint that is known
    while (passage := known.gate.pass_by(ORDERS.key)) is None:
        known.serve()
    known.gate.passed(passage, seconds=0.01, failed=False)
    known.gate._passages.by_name[ORDERS.key].passes_left = 0
    before, passed = known.gate.costs().standing, passage.history.passed

    # When it is looked at again
    known.serve()

    # Then what passed before it counts 40 spans each, and it counts 70
    spans = passed * 40 + 70
    assert known.gate.costs().standing - before == pytest.approx(spans * 6 * 1e-6)


def test_an_endpoint_that_makes_room_passes_no_more() -> None:
    table = EndpointTable()
    history = table.visit("GET /0")
    history.passes_left = 10

    for number in range(1, MAX_ENDPOINTS + 1):
        table.visit(f"GET /{number}")

    assert history.passes_left == 0


def test_names_without_end_are_no_memory_without_end() -> None:
    passages = Passages()
    history = EndpointTable().visit("GET /")
    history.visits = 1_000

    for number in range(2 * MAX_ENDPOINTS):
        kind = endpoint(f"/{number}")
        passages.allow(kind, history, kind.key, chance=0.0, random_below=lambda below: below - 1)

    assert len(passages.by_name) <= MAX_ENDPOINTS


def test_a_forked_child_begins_by_looking(known: Service) -> None:
    while known.gate._passages.by_name[ORDERS.key].passes_left == 0:
        known.serve()

    known.gate.reset()

    assert known.gate.pass_by(ORDERS.key) is None


def test_threads_may_pass_at_once(known: Service) -> None:
    # Given an endpoint of which 1,000 requests may pass
    while known.gate._passages.by_name[ORDERS.key].passes_left == 0:
        known.serve()
    known.gate._passages.by_name[ORDERS.key].passes_left = 1_000

    def passed(_thread: int) -> int:
        passages = [known.gate.pass_by(ORDERS.key) for _ in range(500)]
        for passage in passages:
            if passage is not None:
                known.gate.passed(passage, seconds=0.0, failed=False)
        return sum(passage is not None for passage in passages)

    # When four threads ask 500 times each
    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(passed, range(4)))

    # Then so many did
    assert sum(counts) == 1_000


# --- with spans ---------------------------------------------------------------------------------------


def request(traced):
    route = {"http.request.method": "GET", "http.route": "/orders/{id}"}
    return traced.tracer.start_as_current_span("GET /orders/{id}", kind=SpanKind.SERVER, attributes=route)


def serve(traced, requests: int) -> None:
    for _ in range(requests):
        with request(traced):
            pass


def test_requests_of_spans_pass_and_nothing_of_them_is_left(make_traced) -> None:
    traced = make_traced(rate=0.001)
    serve(traced, 120)
    before = traced.processor.gate._endpoints._visits

    serve(traced, 320)

    gate = traced.processor.gate
    history = gate._endpoints._routes["GET /orders/{}"]
    assert history.visits + history.passed == 440
    assert history.clean_count < 250
    assert before < 440
    assert gate._presences.here().under_way == 0
    assert traced.processor._traces == {}


def test_a_request_that_passes_pays_for_no_profile_of_its_block(make_traced, monkeypatch, profile_of) -> None:
    # Given an endpoint whose next request passes
    traced = make_traced(rate=0.001)
    monkeypatch.setattr(installed, "provider", traced.provider)
    serve(traced, 120)
    while traced.processor.gate._passages.by_name["GET /orders/{id}"].passes_left == 0:
        serve(traced, 1)
    traced.exporter.clear()

    # When there is a block in it that could be profiled
    with request(traced), profile("part"):
        pass

    # Then it is a span and nothing more
    assert [profile_of(span) for span in traced.exporter.get_finished_spans()] == [None, None]


def test_a_block_that_has_the_name_of_an_endpoint_does_not_pass(make_traced, monkeypatch, profile_of) -> None:
    # Given an endpoint whose next request passes
    traced = make_traced(rate=0.001)
    monkeypatch.setattr(installed, "provider", traced.provider)
    serve(traced, 120)
    while traced.processor.gate._passages.by_name["GET /orders/{id}"].passes_left == 0:
        serve(traced, 1)
    traced.exporter.clear()

    # When a block outside of any request has that name
    with profile("GET /orders/{id}"):
        pass

    # Then it is profiled, as was asked for
    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span) is not None


def test_a_block_that_is_refused_is_over_for_the_gate_at_its_end(make_traced, monkeypatch) -> None:
    # Given a script without a budget left, whose block is no span of a server
    traced = make_traced(rate=0.0, cpu_budget=0.001)
    monkeypatch.setattr(installed, "provider", traced.provider)
    traced.processor.gate.charge_encoding(1.0)

    # When the block has run
    with profile("block"):
        assert traced.processor.gate._presences.here().under_way == 1

    # Then nothing of it is left
    assert traced.processor.gate.decisions()["budget"] == 1
    assert traced.processor.gate._presences.here().under_way == 0
    assert traced.processor._traces == {}
