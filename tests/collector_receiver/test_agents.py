"""What the instrumentations of other languages send: both generations of names, with and without routes.

Names and attributes as the instrumentations write them (2023 to 2026), values shortened.
"""

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collector_receiver.translation import Destination, Translator

SERVER, CONSUMER = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER

AGENTS = {
    "java spring, stable": (
        "GET /orders/{id}",
        {
            "http.request.method": "GET",
            "http.route": "/orders/{id}",
            "url.path": "/orders/17",
            "url.scheme": "http",
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
            "thread.id": 42,
        },
        ("GET /orders/{id}", "GET", "/orders/17", 200, "declared"),
    ),
    "java servlet, old, with a context path": (
        "/shop/orders/{id}",
        {
            "http.method": "GET",
            "http.route": "/shop/orders/{id}",
            "http.target": "/shop/orders/17?x=1",
            "http.status_code": 200,
            "http.scheme": "http",
            "net.host.name": "localhost",
        },
        ("GET /shop/orders/{id}", "GET", "/shop/orders/17", 200, "declared"),
    ),
    "java, nobody's path": (
        "GET",
        {"http.request.method": "GET", "url.path": "/nope", "http.response.status_code": 404},
        ("GET /nope", "GET", "/nope", 404, "unmatched"),
    ),
    "node express, old": (
        "GET /orders/:id",
        {
            "http.url": "http://localhost:3000/orders/17",
            "http.host": "localhost:3000",
            "http.method": "GET",
            "http.target": "/orders/17",
            "http.route": "/orders/:id",
            "http.status_code": 200,
            "http.status_text": "OK",
            "http.flavor": "1.1",
        },
        ("GET /orders/:id", "GET", "/orders/17", 200, "declared"),
    ),
    "node http alone, stable": (
        "GET",
        {
            "http.request.method": "GET",
            "url.path": "/orders/17",
            "url.scheme": "http",
            "http.response.status_code": 200,
        },
        ("GET /orders/{id}", "GET", "/orders/17", 200, "path"),
    ),
    "go otelhttp, old: the name is the operation's": (
        "server",
        {"http.method": "POST", "http.target": "/orders", "http.status_code": 201, "net.host.name": "x"},
        ("POST /orders", "POST", "/orders", 201, "path"),
    ),
    "go otelhttp, stable, pattern of the mux": (
        "POST /orders/{id}",
        {
            "http.request.method": "POST",
            "http.route": "/orders/{id}",
            "url.path": "/orders/17",
            "http.response.status_code": 500,
            "error.type": "500",
        },
        ("POST /orders/{id}", "POST", "/orders/17", 500, "declared"),
    ),
    "go otelgrpc, old": (
        "shop.Orders/Get",
        {
            "rpc.system": "grpc",
            "rpc.service": "shop.Orders",
            "rpc.method": "Get",
            "rpc.grpc.status_code": 0,
            "net.sock.peer.addr": "127.0.0.1",
        },
        ("shop.Orders/Get", "", "", None, "declared"),
    ),
    "python grpc": (
        "/shop.Orders/Get",
        {"rpc.system": "grpc", "rpc.service": "shop.Orders", "rpc.method": "Get", "rpc.grpc.status_code": 0},
        ("shop.Orders/Get", "", "", None, "declared"),
    ),
    "grpc, stable": (
        "shop.Orders/Get",
        {"rpc.system.name": "grpc", "rpc.method": "shop.Orders/Get", "rpc.response.status_code": "OK"},
        ("shop.Orders/Get", "", "", None, "declared"),
    ),
    "grpc, no such method, old": (
        "x.Y/Z",
        {"rpc.system": "grpc", "rpc.method": "Z", "rpc.grpc.status_code": 12},
        ("x.Y/Z", "", "", None, "unmatched"),
    ),
    "grpc, no such method, stable": (
        "grpc",
        {
            "rpc.system.name": "grpc",
            "rpc.method": "_OTHER",
            "rpc.method_original": "x.Y/Z",
            "rpc.response.status_code": "UNIMPLEMENTED",
        },
        ("grpc", "", "", None, "unmatched"),
    ),
    "dotnet mvc": (
        "GET orders/{id}",
        {
            "http.request.method": "GET",
            "http.route": "orders/{id}",
            "url.path": "/orders/17",
            "http.response.status_code": 200,
        },
        ("GET /orders/{id}", "GET", "/orders/17", 200, "declared"),
    ),
    "dotnet, unusual method": (
        "HTTP",
        {
            "http.request.method": "_OTHER",
            "http.request.method_original": "BREW",
            "url.path": "/pot",
            "http.response.status_code": 405,
        },
        ("_OTHER /pot", "_OTHER", "/pot", 405, "unmatched"),
    ),
    "dotnet grpc over aspnetcore": (
        "POST /shop.Orders/Get",
        {
            "http.request.method": "POST",
            "http.route": "/shop.Orders/Get",
            "url.path": "/shop.Orders/Get",
            "rpc.system": "grpc",
            "rpc.grpc.status_code": 0,
            "http.response.status_code": 200,
        },
        ("POST /shop.Orders/Get", "POST", "/shop.Orders/Get", 200, "declared"),
    ),
    "ruby rails": (
        "OrdersController#show",
        {
            "http.method": "GET",
            "http.host": "localhost",
            "http.scheme": "http",
            "http.target": "/orders/17",
            "http.status_code": 200,
            "code.namespace": "OrdersController",
            "code.function": "show",
        },
        ("GET /orders/{id}", "GET", "/orders/17", 200, "path"),
    ),
    "ruby rails with routes": (
        "GET /orders/:id",
        {"http.method": "GET", "http.route": "/orders/:id(.:format)", "http.target": "/orders/17"},
        ("GET /orders/:id(.:format)", "GET", "/orders/17", None, "declared"),
    ),
    "php, name only": (
        "GET /orders/17",
        {"http.method": "GET", "http.status_code": "200"},
        ("GET /orders/{id}", "GET", "", 200, "path"),
    ),
    "python wsgi, old": (
        "GET",
        {
            "http.method": "GET",
            "http.target": "/orders/17?q=1",
            "http.url": "http://x/orders/17?q=1",
            "http.status_code": 503,
        },
        ("GET /orders/{id}", "GET", "/orders/17", 503, "path"),
    ),
    "python fastapi, both generations at once": (
        "GET /orders/{order_id}",
        {
            "http.method": "GET",
            "http.request.method": "GET",
            "http.target": "/orders/17",
            "url.path": "/orders/17",
            "http.route": "/orders/{order_id}",
            "http.status_code": 200,
            "http.response.status_code": 200,
        },
        ("GET /orders/{order_id}", "GET", "/orders/17", 200, "declared"),
    ),
    "a proxy, 401 for everybody": (
        "ingress",
        {"http.request.method": "GET", "url.path": "/secret/a", "http.response.status_code": 401},
        ("GET /secret/a", "GET", "/secret/a", 401, "unmatched"),
    ),
    "a proxy whose name says little": (
        "ingress",
        {"http.method": "GET", "http.url": "https://shop.example/orders/17", "http.status_code": "200"},
        ("GET /orders/{id}", "GET", "/orders/17", 200, "path"),
    ),
    "faas": (
        "my-function",
        {"faas.trigger": "http", "http.route": "/orders", "http.request.method": "GET"},
        ("GET /orders", "GET", "", None, "declared"),
    ),
    "an old collector's resource of types that nobody expects": (
        "job",
        {"rpc.grpc.status_code": [12], "http.method": ["GET"], "http.route": 5, "url.path": {"a": 1}},
        ("job", "", "", None, "declared"),
    ),
}


def translate(request):
    destinations = [Destination(project_id="p")] * len(request.resource_spans)
    return Translator().translate(request, destinations)


@pytest.mark.parametrize(("name", "attributes", "expected"), AGENTS.values(), ids=AGENTS)
def test_a_server_span_of_any_agent_is_a_record(make, name, attributes, expected):
    span = make.span(attributes, kind=SERVER, name=name)

    (item,) = translate(make.request(span)).records

    record = item.record
    found = (record.endpoint, record.method, record.path, record.status_code, item.endpoint_origin)
    assert found == expected


def test_a_grpc_call_that_failed_says_so_in_the_status_of_its_span(make):
    span = make.span({"rpc.system": "grpc", "rpc.grpc.status_code": 13}, name="shop.Orders/Get")
    span.status.code = Status.STATUS_CODE_ERROR

    (item,) = translate(make.request(span)).records

    assert item.record.failed


def test_a_consumer_of_messages_is_a_record_only_with_a_profile(make):
    """A message is no request: throughput and latency of a service count what somebody waits for."""
    attributes = {"messaging.system": "kafka", "messaging.operation.type": "process"}
    plain = make.span(attributes, kind=CONSUMER, name="process orders")
    profiled = make.span(attributes, kind=CONSUMER, name="process orders", events=[make.profile_event()])

    batch = translate(make.request(plain, profiled))

    assert [item.record.span_id for item in batch.records] == [profiled.span_id]
    assert [chunk.span_ids for chunk in batch.child_spans] == [[plain.span_id]]
