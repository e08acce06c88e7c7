from __future__ import annotations

import math

import pytest

from otel_pyinstrument import endpoint_history
from otel_pyinstrument.endpoint_history import MAX_ENDPOINTS, EndpointHistory, EndpointTable


def visit(table: EndpointTable, key: str, count: int, seconds: float = 0.1) -> EndpointHistory:
    for _ in range(count):
        history = table.visit(key)
        table.ended(history, seconds, slow=False, failed=False)
    return history


def test_a_lone_endpoint_has_its_share() -> None:
    assert EndpointTable().boost(EndpointTable().visit("GET /new")) == 1

    table = EndpointTable()
    assert table.boost(visit(table, "GET /a", 100)) == pytest.approx(1)


def test_of_two_equally_fast_endpoints_a_request_of_the_rarer_counts_more() -> None:
    table = EndpointTable()
    often, rare = visit(table, "GET /often", 9_900), visit(table, "GET /rare", 100)

    assert table.boost(rare) > 5 * table.boost(often)


def test_of_two_equally_frequent_endpoints_a_request_of_the_slower_counts_more() -> None:
    table = EndpointTable()
    fast, slow = visit(table, "GET /fast", 100, 0.01), visit(table, "GET /slow", 100, 1.0)

    assert table.boost(slow) == pytest.approx(10 * table.boost(fast))


def test_the_mean_over_all_requests_is_one() -> None:
    table = EndpointTable()
    histories = [visit(table, f"GET /{i}", 10 * i, i / 100) for i in range(1, 20)]

    visits = sum(history.visits for history in histories)

    assert sum(table.boost(history) * history.visits for history in histories) / visits == pytest.approx(1)


def test_slow_and_failed_are_remembered_for_twenty_requests() -> None:
    table = EndpointTable()
    history = table.visit("GET /a")
    table.ended(history, 2, slow=True, failed=True)

    seen = [(bool(history.slow_left), bool(history.failed_left)) for _ in range(25) if table.visit("GET /a")]

    assert seen == [(True, True)] * 19 + [(False, False)] * 6


def test_the_endpoint_seen_longest_ago_makes_room() -> None:
    # Given a full table, in which the first endpoint was seen again
    table = EndpointTable()
    for i in range(MAX_ENDPOINTS):
        visit(table, f"GET /{i}", 1)
    first = visit(table, "GET /0", 1)

    # When a scanner asks for ten thousand more
    for i in range(MAX_ENDPOINTS, MAX_ENDPOINTS + 10_000):
        if i % 100 == 0:
            assert table.visit("GET /0") is first
        visit(table, f"GET /{i}", 1)

    # Then the table is as large as before, and its sums are those of what it holds
    assert len(table) == MAX_ENDPOINTS
    assert table.visit("GET /0") is first
    assert table.visit("GET /1").visits == 1
    held = table._routes.values()
    assert table._visits == pytest.approx(sum(history.visits for history in held))
    assert table._weight == pytest.approx(sum(history.weight for history in held))


def test_paths_that_anybody_makes_up_take_no_room_of_routes() -> None:
    # Given a route
    table = EndpointTable()
    route = table.visit("GET /orders")

    # When somebody asks for many paths that are none
    for number in range(3 * MAX_ENDPOINTS):
        table.visit(f"GET /{number}", is_route=False)

    # Then it is still known, and of them as many as there may be
    assert table.visit("GET /orders") is route
    assert len(table) == MAX_ENDPOINTS + 1


@pytest.mark.parametrize("known", ["at its end", "when the next one begins"])
def test_a_path_that_turns_out_to_be_a_route_is_remembered_as_one(known: str) -> None:
    # Given a path of which it becomes known that the application has named it
    table = EndpointTable()
    history = table.visit("GET /status", is_route=False)
    if known == "at its end":
        table.name(history)
    else:
        assert table.visit("GET /status") is history

    # When somebody asks for many paths that are none
    for number in range(MAX_ENDPOINTS):
        table.visit(f"GET /{number}", is_route=False)

    # Then it is still known, also where the next request does not tell
    assert table.visit("GET /status", is_route=False) is history
    assert history.is_route
    assert table._visits == sum(each.visits for each in [*table._routes.values(), *table._paths.values()])


def test_what_ends_after_its_endpoint_made_room_has_no_weight() -> None:
    # Given a request that lasts for an hour, whose endpoint makes room meanwhile
    table = EndpointTable()
    gone = table.visit("GET /socket")
    for number in range(MAX_ENDPOINTS):
        table.visit(f"GET /{number}")

    # When it ends, here or in a process that was forked from this one
    forked = EndpointTable()
    for each in (table, forked):
        each.ended(gone, 3_600, slow=True, failed=False)

    # Then the others' share is what it was
    assert (table._weight, forked._weight) == (0, 0)


def test_numbers_fade_while_a_signal_handler_visits_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a handler that makes a request whenever a number fades
    table = EndpointTable()
    visit(table, "GET /a", 20_000)
    visit(table, "GET /b", 1)
    root = math.sqrt
    made: list[EndpointHistory] = []

    def interrupted(number: float) -> float:
        if not made:
            made.append(table.visit("GET /from-the-handler"))
        return root(number)

    monkeypatch.setattr(endpoint_history.math, "sqrt", interrupted)

    # When they fade
    table._fade()

    # Then nothing of both is lost
    assert made
    assert table.visit("GET /from-the-handler") is made[0]


def test_old_numbers_fade() -> None:
    table = EndpointTable()
    history = visit(table, "GET /a", 50_000)

    assert 10_000 <= history.visits <= 20_001
    assert table._visits == pytest.approx(history.visits)
