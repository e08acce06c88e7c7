from __future__ import annotations

import re
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_pyinstrument.learned_routes import MAX_ROUTES, MAX_SEGMENTS, LearnedRoutes


def learned(*served: tuple[str, str]) -> LearnedRoutes:
    """What is known after these routes have served these paths."""
    routes = LearnedRoutes()
    for route, path in served:
        routes.learn("GET", route, path)
    return routes


@pytest.mark.parametrize(
    ("route", "path", "later"),
    [
        ("/users/{}", "/users/alice", "/users/bob"),
        ("/users/{}/", "/users/alice/", "/users/bob/"),
        ("/{}/orders/{}", "/alice/orders/new", "/bob/orders/old"),
        ("/{}", "/about", "/news"),
        ("/" + "a/" * (MAX_SEGMENTS - 1) + "{}", "/" + "a/" * (MAX_SEGMENTS - 1) + "x", None),
        # The rest of a path: `{path:path}`, and what is below a mount
        ("/files/{}", "/files/css/site.css", "/files/a/b/c"),
        ("/files/{}", "/files/css/site.css", "/files/" + "a/" * 500 + "b"),
        ("/files/{}", "/files/css/site.css", "/files/readme"),
    ],
)
def test_a_later_path_of_the_same_route_is_recognised(route: str, path: str, later: str | None) -> None:
    assert learned((route, path)).find("GET", later or path) == route


@pytest.mark.parametrize(
    "path",
    ["", "/", "/users", "/users/", "/users/alice/", "/users/alice/orders", "/groups/alice", "xusers/alice"],
)
def test_a_path_that_the_route_does_not_explain_has_none(path: str) -> None:
    assert learned(("/users/{}", "/users/alice")).find("GET", path) == ""


@pytest.mark.parametrize(
    "path", ["/files", "/files/", "/other/css/site.css", "xfiles/css/site.css", "files/a"]
)
def test_a_path_that_does_not_begin_as_the_route_has_none(path: str) -> None:
    assert learned(("/files/{}", "/files/css/site.css")).find("GET", path) == ""


def test_a_route_of_one_method_says_nothing_of_another() -> None:
    # Given `GET /users/me` beside `PUT /users/{}`
    routes = learned(("/users/{}", "/users/alice"), ("/users/me", "/users/me"))
    routes.learn("PUT", "/users/{}", "/users/alice")

    # Then each method has its own
    assert routes.find("GET", "/users/me") == "/users/me"
    assert routes.find("PUT", "/users/me") == "/users/{}"
    assert routes.find("DELETE", "/users/me") == ""


def test_nothing_is_known_at_first() -> None:
    assert LearnedRoutes().find("GET", "/users/alice") == ""


@pytest.mark.parametrize(
    ("route", "path"),
    [
        # Django's regular expressions, and a parameter of which the path shows a part only
        ("/^users/(?P{}\\w+)/$", "/users/alice/"),
        ("/@{}", "/@alice"),
        ("/{}.json", "/alice.json"),
        # A mount or a proxy whose prefix is not in the route
        ("/users/{}", "/api/users/alice"),
        ("/{}", "/api/alice"),
        ("/{}/{}", "/api/users/alice"),
        ("/{}/users", "/api/users/alice"),
        # An answer that sends on to the route, with a slash more or less
        ("/users/{}", "/users/alice/"),
        ("/users/{}/", "/users/alice"),
        # A rest that is empty here, and what is no path or route
        ("/files/{}", "/files/"),
        ("/users/{}", "xusers/alice"),
        ("/users/{}", ""),
        ("/", "/users/alice"),
        ("/" + "{}/" * MAX_SEGMENTS, "/" + "a/" * MAX_SEGMENTS),
    ],
)
def test_what_does_not_explain_its_own_path_is_not_learned(route: str, path: str) -> None:
    routes = learned((route, path))

    assert len(routes) == 0
    assert routes.find("GET", path) == ""


def test_a_literal_segment_wins_over_a_parameter() -> None:
    # Given a route that another one's parameter would take
    routes = learned(("/users/{}", "/users/alice"))
    assert routes.find("GET", "/users/me") == "/users/{}"

    # When it has served a request
    routes.learn("GET", "/users/me", "/users/me")

    # Then it is known for itself
    assert routes.find("GET", "/users/me") == "/users/me"
    assert routes.find("GET", "/users/bob") == "/users/{}"


def test_a_parameter_is_tried_where_the_literal_leads_nowhere() -> None:
    routes = learned(("/users/{}/orders", "/users/alice/orders"), ("/users/me/{}", "/users/me/settings"))

    assert routes.find("GET", "/users/me/orders") == "/users/me/{}"

    routes = learned(("/users/{}/orders", "/users/alice/orders"), ("/users/me/{}/x", "/users/me/settings/x"))

    assert routes.find("GET", "/users/me/orders") == "/users/{}/orders"


def test_any_route_of_its_own_wins_over_the_rest_of_another() -> None:
    routes = learned(("/api/{}", "/api/no/such/thing"), ("/api/users/{}", "/api/users/alice"))

    assert routes.find("GET", "/api/users/bob") == "/api/users/{}"
    assert routes.find("GET", "/api/users/bob/orders") == "/api/{}"


def test_a_route_that_is_its_path_takes_no_place() -> None:
    # Given an instrumentation that says the path for the route
    routes = learned(("/orders/17", "/orders/17"), ("/orders/18", "/orders/18"))

    assert len(routes) == 0


def test_when_it_is_full_the_known_stay() -> None:
    # Given an application with more routes than are remembered, which serves some again
    routes = learned(*((f"/r{i}/{{}}", f"/r{i}/x") for i in range(MAX_ROUTES - 1)))
    routes.learn("GET", "/r0/{}", "/r0/y")
    assert len(routes) == MAX_ROUTES - 1

    # When it serves the last two
    routes.learn("GET", "/last/{}", "/last/x")
    routes.learn("GET", "/more/{}", "/more/x")

    # Then the one for which there was no place is unknown
    assert len(routes) == MAX_ROUTES
    assert routes.find("GET", "/r0/z") == "/r0/{}"
    assert routes.find("GET", "/last/z") == "/last/{}"
    assert routes.find("GET", "/more/z") == ""


def test_threads_may_learn_and_ask_at_the_same_time() -> None:
    # Given routes that share their first segments
    routes, threads = LearnedRoutes(), 8
    served = [
        [(f"/a/b/t{thread}-{i}/{{}}", f"/a/b/t{thread}-{i}/x") for i in range(100)] for thread in range(8)
    ]
    barrier = threading.Barrier(threads)
    wrong: list[str] = []

    def serve(part: list[tuple[str, str]]) -> None:
        barrier.wait()
        for route, path in part:
            routes.learn("GET", route, path)
            if routes.find("GET", path) != route:
                wrong.append(path)

    # When eight threads learn a hundred each
    workers = [threading.Thread(target=serve, args=(part,)) for part in served]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    # Then none is lost
    assert not wrong
    assert len(routes) == 800
    assert all(routes.find("GET", path) == route for part in served for route, path in part)


def test_a_hostile_path_takes_no_time() -> None:
    # Given routes in which each segment may be literal or not, and a path that fits none at its end
    names = [["a"], ["{}"]]
    for _ in range(7):
        names = [[*name, last] for name in names for last in ("a", "{}")]
    routes = learned(*(("/" + "/".join(name), "/" + "a/" * 7 + "a") for name in names[::-1]))
    start = time.thread_time()

    for _ in range(100):
        assert routes.find("GET", "/" + "a/" * 1_000) == ""

    # Then it is over at once; the bound is far above what it takes
    assert len(routes) == 256
    assert time.thread_time() - start < 5


# --- whatever the routes are ----------------------------------------------------------------------------

segments = st.sampled_from(["a", "b", "{}"])
values = st.sampled_from(["a", "b", "c", "{}"])
paths = st.lists(values | st.just(""), min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """A route and a path that it serves: each parameter has a value, the last one perhaps several."""
    names = draw(st.lists(segments, min_size=1, max_size=4))
    parts = [draw(values) if name == "{}" else name for name in names]
    if names[-1] == "{}" and draw(st.booleans()):
        parts += draw(st.lists(values, min_size=1, max_size=2))
    return "/" + "/".join(names), "/" + "/".join(parts)


def best(known: set[tuple[str, bool]], path: str) -> str:
    """The same choice by regular expressions: of those that match, the one whose parameters come last."""
    found: list[tuple[list[int], str]] = []
    for route, goes_on in known:
        names = route[1:].split("/")
        order = [int(name == "{}") for name in names]
        expressions = ["[^/]+" if name == "{}" else re.escape(name) for name in names]
        if goes_on:
            order[-1], expressions[-1] = 2, "[^/].*"
        if re.fullmatch("/" + "/".join(expressions), path):
            found.append((order, route))
    return min(found)[1] if found else ""


@given(st.lists(requests(), max_size=12), paths)
def test_the_route_found_is_the_best_of_the_learned_ones(served: list[tuple[str, str]], path: str) -> None:
    # Given a model that knows what is to be learned of each request
    routes, known = LearnedRoutes(), set[tuple[str, bool]]()
    for route, own_path in served:
        goes_on = own_path.count("/") > route.count("/")
        if not ("{}" not in route and not best(known, own_path)) and not (
            goes_on and set(route) <= set("/{}")
        ):
            known.add((route, goes_on))
        routes.learn("GET", route, own_path)

    # Then both know as many, and find the same
    assert len(routes) == len(known)
    for asked in [path, *(own_path for _, own_path in served)]:
        assert routes.find("GET", asked) == best(known, asked)


@given(st.lists(st.tuples(st.text(), st.text())), st.text())
@example([("/{}", "/a"), ("", "/b"), ("/", "//"), ("{}", "/c")], "/")
def test_any_text_is_survived_and_no_other_route_is_invented(
    served: list[tuple[str, str]], path: str
) -> None:
    routes = learned(*served)

    assert len(routes) <= len(served)
    assert routes.find("GET", path) in {"", *(route for route, _ in served)}
