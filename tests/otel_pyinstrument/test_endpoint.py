from __future__ import annotations

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from otel_pyinstrument.endpoint import Endpoint, endpoint_key, endpoint_of, learn_route, path_template
from otel_pyinstrument.learned_routes import LearnedRoutes


def span_with(name: str, **attributes: object):
    provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    return provider.get_tracer("test").start_span(
        name, attributes={key.replace("__", "."): value for key, value in attributes.items()}
    )


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        # Flask and FastAPI know the route
        (
            "GET /orders/<int:id>",
            {"http__method": "GET", "http__route": "/orders/<int:id>", "http__target": "/orders/7?page=2"},
            Endpoint("GET /orders/{}", "GET", "/orders/7"),
        ),
        (
            "GET /orders/{id}",
            {"http__request__method": "GET", "http__route": "/orders/{id}", "url__path": "/orders/7"},
            Endpoint("GET /orders/{}", "GET", "/orders/7"),
        ),
        # Django has it in the name, without the leading slash
        (
            "GET orders/<int:id>/",
            {"http__method": "GET", "http__target": "/orders/7/"},
            Endpoint("GET /orders/{}/", "GET", "/orders/7/"),
        ),
        # WSGI has the path in the name
        (
            "GET /orders/7",
            {"http__method": "GET", "http__target": "/orders/7"},
            Endpoint("GET /orders/{}", "GET", "/orders/7", is_route=False),
        ),
        ("GET", {"http__method": "GET", "url__path": "/a"}, Endpoint("GET /a", "GET", "/a", is_route=False)),
        # A method that not every list has
        ("QUERY search", {"http__request__method": "QUERY"}, Endpoint("QUERY /search", "QUERY", "search")),
        (
            "PROPFIND",
            {"http__method": "PROPFIND", "url__path": "/a"},
            Endpoint("_OTHER /a", "_OTHER", "/a", is_route=False),
        ),
        # Nothing but a name
        ("POST /a", {}, Endpoint("POST /a", "POST", "/a", is_route=False)),
        # It is that of the path, which WSGI has in other letters
        (
            "GET /a b",
            {"http__method": "GET", "http__target": "/a%20b"},
            Endpoint("GET /a b", "GET", "/a%20b", is_route=False),
        ),
        ("handle message", {}, Endpoint(" /handle message", "", "", is_route=False)),
        (
            "GET",
            {"http__method": 7, "http__route": 7, "url__path": 7},
            Endpoint("GET /GET", "GET", "", is_route=False),
        ),
    ],
)
def test_the_endpoint_is_what_is_known_at_the_start(name: str, attributes: dict, expected: Endpoint) -> None:
    assert endpoint_of(span_with(name, **attributes)) == expected


def test_the_path_is_not_looked_for_when_nobody_asks() -> None:
    span = span_with("GET", http__method="GET", http__route="/orders/{id}", http__target="/orders/7")

    assert endpoint_of(span, with_path=False) == Endpoint("GET /orders/{}", "GET", "/orders/{id}")


def ended_with(route: object) -> LearnedRoutes:
    """What is known after a request for `/users/alice` whose span had this route only at its end."""
    routes = LearnedRoutes()
    span = span_with("GET", http__request__method="GET", url__path="/users/alice")
    endpoint = endpoint_of(span, routes)
    span.set_attribute("http.route", route)
    learn_route(span, endpoint, routes)
    return routes


@pytest.mark.parametrize("route", ["/users/{name}", "/users/<string:name>", "users/<slug:name>"])
def test_a_path_has_the_route_that_an_earlier_request_of_its_method_has_shown(route: str) -> None:
    routes = ended_with(route)

    for method, shown, is_route in (("GET", "/users/{}", True), ("POST", "/users/bob", False)):
        span = span_with(method, http__request__method=method, url__path="/users/bob")
        assert endpoint_of(span, routes) == Endpoint(f"{method} {shown}", method, "/users/bob", is_route)


@pytest.mark.parametrize(
    ("name", "attributes", "key"),
    [
        ("GET", {"http__route": "/users/me"}, "GET /users/me"),
        ("GET users/me", {}, "GET /users/me"),
    ],
)
def test_a_route_that_is_known_at_the_start_is_not_looked_up(name: str, attributes: dict, key: str) -> None:
    span = span_with(name, http__request__method="GET", url__path="/users/me", **attributes)

    assert endpoint_of(span, ended_with("/users/{name}")).key == key


@pytest.mark.parametrize("route", ["", 7, "/users/alice", "/users/{name}" + "/" * 200])
def test_a_route_that_tells_nothing_is_not_learned(route: object) -> None:
    assert len(ended_with(route)) == 0


def test_a_route_that_was_known_at_the_start_takes_no_place() -> None:
    routes = LearnedRoutes()
    span = span_with("GET", http__method="GET", http__route="/users/{name}", http__target="/users/alice")

    learn_route(span, endpoint_of(span, routes), routes)

    assert len(routes) == 0


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/", "/"),
        ("/orders/12/items/3", "/orders/{}/items/{}"),
        ("/u/6b017a7d36475e23f091440a", "/u/{}"),
        ("/u/0c0e8a26-7380-4f66-9b4a-9eeae6d43e00/", "/u/{}/"),
        ("/api/v2/health", "/api/v2/health"),
        ("/files/report-2024-11.pdf", "/files/{}"),
        ("/" + "x" * 40, "/{}"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/*"),
    ],
)
def test_what_looks_like_an_identifier_is_a_parameter(path: str, template: str) -> None:
    assert path_template(path) == template


@pytest.mark.parametrize("path", ["/" + "é" * 10_000, "/" * 10_000, "/" + "1a" * 10_000, "\x00", "/a\nb"])
def test_a_hostile_path_makes_a_short_template(path: str) -> None:
    assert len(path_template(path)) <= 200
    assert len(endpoint_key("GET", path)) <= 210


def test_parameters_of_all_frameworks_are_the_same() -> None:
    assert endpoint_key("GET", "/a/<int:id>/b") == endpoint_key("GET", "a/{id}/b") == "GET /a/{}/b"


def test_what_is_kept_of_a_hostile_request_is_short() -> None:
    # Given a request with a path and a method of a megabyte
    span = span_with("GET", http__method="X" * 1_000_000, url__path="/" + "a" * 1_000_000)

    endpoint = endpoint_of(span)

    # Then nothing of that length is remembered
    assert endpoint.method == "_OTHER"
    assert len(endpoint.key) < 300
    assert len(endpoint.path) <= 2_000


@pytest.mark.parametrize(
    ("at_start", "at_end", "expected"),
    [
        ({"http__route": "/a"}, {}, True),
        ({}, {"http.route": "/a"}, True),
        ({}, {"http.route": 7}, False),
        ({}, {}, False),
    ],
    ids=["at its start", "at its end", "no text", "never"],
)
def test_it_is_told_whether_the_application_has_named_the_endpoint(at_start, at_end, expected) -> None:
    span = span_with("GET", http__request__method="GET", url__path="/a", **at_start)
    endpoint = endpoint_of(span)
    span.set_attributes(at_end)

    assert learn_route(span, endpoint, LearnedRoutes()) is expected
