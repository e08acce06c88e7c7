"""Endpoints are named by method and route, from old and new attribute names."""

import pytest

from collector_receiver.endpoint import endpoint_of, path_template, status_code_of

STABLE = {"http.request.method": "GET", "http.route": "/orders/<int:id>", "url.path": "/orders/17"}
OLD = {"http.method": "GET", "http.route": "/orders/<int:id>", "http.target": "/orders/17?token=1"}


@pytest.mark.parametrize("attributes", [STABLE, OLD], ids=["stable", "old"])
def test_both_generations_of_names_give_the_same_endpoint(attributes):
    assert endpoint_of(attributes, "GET") == ("GET /orders/<int:id>", "GET", "/orders/17")


@pytest.mark.parametrize(
    ("route", "shown"),
    [("orders/<int:id>", "/orders/<int:id>"), ("/orders", "/orders"), (r"^orders/(\d+)$", r"^orders/(\d+)$")],
)
def test_routes_of_django_get_their_slash(route, shown):
    assert endpoint_of({"http.method": "GET", "http.route": route}, "GET").name == f"GET {shown}"


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/", "/"),
        ("/orders", "/orders"),
        ("/orders/17", "/orders/{id}"),
        ("/orders/17/items/3/", "/orders/{id}/items/{id}/"),
        ("/api/v2/users", "/api/v2/users"),
        ("/users/6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b", "/users/{id}"),
        ("/blobs/9f86d081884c7d65", "/blobs/{id}"),
        ("/deadbeef", "/deadbeef"),
        ("/invoice-20261121.pdf", "/{id}"),
        ("/" + "x" * 41, "/{id}"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/…"),
    ],
)
def test_without_a_route_the_path_becomes_a_template(path, template):
    assert path_template(path) == template
    assert endpoint_of({"http.method": "GET", "url.path": path}, "GET").name == f"GET {template}"


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({"http.url": "http://localhost:8000/a/b?secret=1"}, "/a/b"),
        ({"url.full": "http://[broken/a"}, ""),
        ({"http.target": "/a#b"}, "/a"),
        ({"http.target": "http://shop.example/a/b?c"}, "/a/b"),
        ({"http.target": "/login?next=http://x/"}, "/login"),
        ({"url.path": "/p", "http.target": "/t"}, "/p"),
        ({"url.path": 5}, ""),
    ],
)
def test_the_path_comes_without_its_query(attributes, path):
    assert endpoint_of({"http.method": "GET"} | attributes, "GET").path == path


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("get", "GET"),
        ("M-SEARCH", "M-SEARCH"),
        ("_OTHER", "_OTHER"),
        ("G E T", "_OTHER"),
        ("BREW", "_OTHER"),
        ("X" * 999, "_OTHER"),
        (7, ""),
    ],
)
def test_a_strange_method_cannot_make_endless_endpoints(method, expected):
    assert endpoint_of({"http.request.method": method, "http.route": "/"}, "name").method == expected


def test_a_span_that_is_not_http_is_named_after_itself():
    assert endpoint_of({"rpc.system": "grpc"}, "shop.Orders/List") == ("shop.Orders/List", "", "")


@pytest.mark.parametrize(
    ("name", "expected"), [("GET /orders", "GET /orders"), ("orders", "GET orders"), ("", "GET unknown")]
)
def test_with_a_method_but_neither_route_nor_path_the_name_decides(name, expected):
    assert endpoint_of({"http.method": "GET"}, name).name == expected


def test_an_endpoint_is_one_printable_bounded_line():
    name = endpoint_of({"http.method": "GET", "http.route": "/a\nproject=x\x00" + "b" * 999}, "").name

    assert name.isprintable()
    assert len(name) <= 204


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"http.response.status_code": 404}, 404),
        ({"http.status_code": 500}, 500),
        ({"http.status_code": "200"}, 200),
        ({"http.status_code": "٢٠٠"}, None),
        ({"http.status_code": True}, None),
        ({"http.status_code": 99_999}, None),
        ({}, None),
    ],
)
def test_the_status_code_is_a_plausible_number_or_none(attributes, expected):
    assert status_code_of(attributes) == expected
