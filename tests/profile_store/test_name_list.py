"""Names get seats in the order in which they come, and keep them while they are used."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profile_store.name_list import (
    KEPT_DAYS,
    KEPT_DAYS_AFTER_ONE,
    MAX_SIBLINGS,
    SEATS,
    NameList,
    Naming,
    Wanted,
)

DAY = 739_000


def path(endpoint, origin="path"):
    return Wanted(endpoint, "", "", endpoint.split(" ")[0], origin)


def declared(endpoint, method=""):
    return Wanted(endpoint, "", "", method)


def after(*wanted, names=None, day=DAY):
    return (names or NameList()).seat(wanted, day)


def endpoints(names, wanted):
    return [names.naming(one).endpoint for one in wanted]


def test_the_first_names_are_kept_as_they_are():
    wanted = [path("GET /orders"), declared("GET /orders/<int:id>", "GET"), declared("shop.Orders/List")]

    names = after(*wanted)

    assert endpoints(names, wanted) == [one.endpoint for one in wanted]
    assert all(map(names.holds, wanted))


def test_versions_and_environments_have_seats_too():
    wanted = [Wanted("job", f"1.{number}", f"test-{number}") for number in range(2_000)]

    names = after(*wanted)

    assert names.naming(wanted[0]) == Naming("job", "1.0", "test-0")
    assert names.naming(wanted[-1]) == Naming("job", "{other}", "{other}")
    assert names.naming(Wanted("job", "", "")) == Naming("job", "", "")


def test_many_paths_below_one_are_named_together_but_known_ones_stay():
    # Given a shop whose products have names
    known = path("GET /products/red-shoes")
    names = after(known)

    # When endless others are asked for
    names = after(*[path(f"GET /products/p-{letter}") for letter in string.printable[:90]], names=names)

    # Then they are one endpoint from some number on
    assert endpoints(names, [known]) == ["GET /products/red-shoes"]
    new = [path("GET /products/new"), path("GET /products/newer/reviews"), path("POST /products/new")]
    names = after(*new, names=names)
    assert endpoints(names, new) == ["GET /products/{*}", "GET /products/{*}", "POST /products/{*}"]
    assert len(names.seats["paths"]) == MAX_SIBLINGS


def test_paths_without_a_method_are_named_together_too():
    """As senders of plain JSON may tell them."""
    # Given a list that is full below one path, as another process reads it
    names = after(*[Wanted(f"/products/p{number}", "", "", "", "path") for number in range(MAX_SIBLINGS)])
    names = NameList(names.seats, names.day)

    # When there are others
    new = [Wanted(path, "", "", "", "path") for path in ("/products/new", "/products/newer/reviews")]
    names = after(*new, names=names)

    # Then they have a collective name without a method
    assert endpoints(names, new) == ["/products/{*}"] * 2
    assert len(names.seats["paths"]) == MAX_SIBLINGS


def test_the_template_of_numbers_has_a_place_beside_many_names():
    names = after(*[path(f"GET /products/p{number}") for number in range(MAX_SIBLINGS)])

    assert after(path("GET /products/{id}"), names=names).holds(path("GET /products/{id}"))


def test_a_client_error_without_a_route_never_gets_a_seat():
    wanted = [path("GET /wp-login.php", "unmatched"), Wanted("x.Y/Z", "", "", "", "unmatched")]

    names = after(*wanted)

    assert endpoints(names, wanted) == ["GET /{unmatched}", "{unmatched}"]
    assert len(names) == 0


def test_a_client_error_at_a_known_path_belongs_to_it():
    names = after(path("GET /orders/{id}"))

    assert endpoints(names, [path("GET /orders/{id}", "unmatched")]) == ["GET /orders/{id}"]


def random_paths(count, seed=1):
    dice = random.Random(seed)
    for _ in range(count):
        depth = dice.choice([1, 1, 2, 3, 5])
        yield "GET " + "".join(f"/{dice.randbytes(4).hex().translate(LETTERS)}" for _ in range(depth))


LETTERS = str.maketrans("0123456789", "ghijklmnop")


def test_a_scanner_with_100_000_paths_makes_few_endpoints_and_takes_no_ones_place():
    # Given an application with some endpoints, also without routes
    real = [path(f"{m} /api/{t}/{{id}}") for m in ("GET", "PUT") for t in ("orders", "users", "carts")]
    real += [declared(f"GET /pages/<int:p{number}>", "GET") for number in range(200)]
    names = after(*real)

    # When it answers 200 to whatever a scanner asks for, in requests of 500 spans
    wanted = [path(endpoint) for endpoint in random_paths(100_000)]
    for start in range(0, len(wanted), 500):
        names = names.seat(wanted[start : start + 500], DAY)

    # Then there are few endpoints, and those of the application are all there
    found = set(endpoints(names, wanted))
    assert len(found) <= SEATS["paths"] + SEATS["branches"] + 1
    assert endpoints(names, real) == [one.endpoint for one in real]
    # And another visit changes nothing at all
    assert names.seat(wanted[:5_000], DAY) is names
    assert endpoints(names, wanted[:5_000]) == endpoints(names, wanted[:5_000])


@pytest.mark.parametrize("method", ["", "GET"])
def test_endless_routes_and_span_names_are_bounded_as_well(method):
    prefix = f"{method} /" if method else ""
    wanted = [declared(f"{prefix}name{number}", method) for number in range(SEATS["declared"] + 10)]

    names = after(*wanted)

    found = endpoints(names, wanted)
    assert found[: SEATS["declared"]] == [one.endpoint for one in wanted[: SEATS["declared"]]]
    assert set(found[SEATS["declared"] :]) == {"GET /{*}" if method else "{other}"}


def test_seats_that_nobody_uses_are_given_away_those_of_one_day_soon():
    # Given a list that is full: of a flood of one day, and of one name that was used on two days
    monthly, flood = declared("monthly report"), [declared(f"n{number}") for number in range(2_000)]
    names = after(monthly, day=DAY - 1)
    names = after(monthly, *flood, names=names)
    late = declared("new")

    # Then a new name has to wait, but not for ever
    assert not after(late, names=names, day=DAY + KEPT_DAYS_AFTER_ONE).holds(late)
    names = after(late, names=names, day=DAY + KEPT_DAYS_AFTER_ONE + 1)
    assert names.holds(late)
    assert names.holds(monthly)
    assert len(names) == 2
    assert after(late, names=names, day=DAY + KEPT_DAYS).holds(monthly)
    assert not after(late, names=names, day=DAY + KEPT_DAYS + 1).holds(monthly)


def test_a_name_in_use_stays_for_years():
    names, daily, weekly = NameList(), declared("daily"), declared("weekly")
    for day in range(DAY, DAY + 800):
        names = names.seat([daily, weekly] if day in (DAY, DAY + 1) or day % 7 == 0 else [daily], day)

    assert names.holds(daily)
    assert names.seats["declared"]["daily"].first_day == DAY
    assert names.seats["declared"]["weekly"].first_day == DAY


def test_a_clock_behind_frees_nothing():
    names = after(declared("a"))

    assert after(declared("b"), names=names, day=DAY - 500).holds(declared("a"))


def test_what_no_database_can_hold_is_left_for_the_store_to_refuse():
    surrogate = Wanted("\ud800", "\udfff", "\ud801")

    names = after(surrogate)

    assert names.naming(surrogate) == surrogate[:3]
    assert len(names) == 0


def test_an_endless_name_gets_no_seat():
    names = after(declared("x" * 5_000))

    assert endpoints(names, [declared("x" * 5_000)]) == ["{other}"]


names_of_paths = st.lists(st.sampled_from(["a", "b", "{id}", "{*}", ""]), max_size=4).map("/".join)
anything = st.builds(
    Wanted,
    st.builds("{} /{}".format, st.sampled_from(["GET", "PUT"]), names_of_paths) | st.text(max_size=5),
    st.text(max_size=3),
    st.text(max_size=3),
    st.sampled_from(["GET", "PUT", ""]),
    st.sampled_from(["declared", "path", "unmatched"]),
)


@given(st.lists(st.tuples(st.lists(anything, max_size=5), st.integers(DAY, DAY + 80)), max_size=6))
def test_whatever_comes_the_list_agrees_with_itself(batches):
    names = NameList()
    for wanted, day in batches:
        names = names.seat(wanted, day)
        # Asking again changes nothing, and the order of the tree does not matter
        assert names.seat(wanted, day) is names
        assert names.children == NameList(names.seats).children
        assert all(len(names.seats[family]) <= limit for family, limit in SEATS.items())
