"""Rates of single endpoints: how they are written, what the gate makes of them, and a real application."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.endpoint import Endpoint, endpoint_key
from otel_pyinstrument.endpoint_rates import read_endpoint_rate
from otel_pyinstrument.gate import Gate
from otel_pyinstrument.settings import Settings, read_settings
from tests.otel_pyinstrument.gate_service import Service

# --- how they are written ----------------------------------------------------------------------------

LITERALS = st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters="*,;?=<>{}"))
ROUTES = st.lists(LITERALS | st.sampled_from(["{id}", "{path:path}", "<int:id>"])).map("/".join)
ENDPOINTS = st.builds(
    lambda method, route: f"{method}/{route}", st.sampled_from(["", "GET ", "POST  "]), ROUTES
)
RATES = st.floats(0, 1)
NO_ENTRIES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="=,"))


@given(ENDPOINTS, RATES)
def test_an_entry_is_an_endpoint_and_its_rate(endpoint: str, rate: float) -> None:
    assert read_endpoint_rate(f" {endpoint} = {rate} ") == (endpoint, rate)


@given(st.lists(st.tuples(ENDPOINTS, RATES)), st.lists(NO_ENTRIES))
def test_good_entries_hold_whatever_stands_beside_them(good: list[tuple[str, float]], bad: list[str]) -> None:
    # Given good entries among others that have no rate
    entries = [f"{endpoint}={rate}" for endpoint, rate in good]
    mixed = [*entries, *bad]
    random.Random(len(mixed)).shuffle(mixed)
    expected = [entry for entry in mixed if entry in entries]

    # Then the good ones are read in their order, and what was read is read again as the same
    settings = read_settings({"OTEL_PYINSTRUMENT_ENDPOINT_RATES": ",".join(mixed)}, {})
    assert list(settings.endpoint_rates) == expected
    assert read_settings({}, {"endpoint_rates": settings.endpoint_rates}) == settings


@pytest.mark.parametrize(
    "written",
    [
        "/a=0.5 /b=0",
        "/a=0.5;/b=0",
        "/a=0.5,/b=0",
        "/a/*=1",
        "/search?q=1=0",
        "/orders/<int(min=1",
        "/orders/{id=1",
        "orders=1",
        "get /orders=1",
        "PROPFIND /orders=1",
        "/orders",
        "=1",
        "/orders=2",
        "/orders=nan",
    ],
)
def test_what_is_not_one_endpoint_and_its_rate_is_refused(written: str) -> None:
    with pytest.raises(ValueError):
        read_endpoint_rate(written)


def test_a_regular_expression_of_django_is_an_endpoint_of_its_own() -> None:
    # Given a rate for a route of `re_path`
    settings = Settings(
        rate=0, slow_rate=0, error_rate=0, endpoint_rates=("GET /api/^orders/(?P<pk>[^/.]+)/$=1",)
    )
    gate = Gate(settings)

    # When a request comes whose span has that route in its name, and another one
    chosen = [
        gate.arrive(Endpoint(endpoint_key("GET", route), "GET", "/api/orders/7/")) is not None
        and gate.admit(gate.arrive(Endpoint(endpoint_key("GET", route), "GET", "/api/orders/7/"))) is not None
        for route in (r"api/^orders/(?P<number>[^/.]+)/$", r"api/^others/(?P<number>[^/.]+)/$")
    ]

    # Then it is chosen, and the other one is not
    assert chosen == [True, False]


@pytest.mark.parametrize("route", ["/orders/<int(min=1,max=9):id>", "/codes/<re('[a-z]{2}'):code>"])
def test_a_parameter_may_hold_what_separates_entries_in_a_mapping(route: str) -> None:
    settings = read_settings({}, {"endpoint_rates": {route: 0.5}})

    assert settings.endpoint_rates == (f"{route}=0.5",)


@given(
    st.text()
    | st.lists(st.builds("{}={}".format, ENDPOINTS, RATES) | st.text())
    | st.dictionaries(ENDPOINTS | st.text(), st.floats() | st.text() | st.booleans() | st.none())
)
def test_whatever_is_written_the_gate_can_use_what_is_read(written: object) -> None:
    settings = read_settings({}, {"endpoint_rates": written})

    for entry in settings.endpoint_rates:
        assert 0 <= read_endpoint_rate(entry).rate <= 1
    Gate(settings)


# --- what the gate makes of them ---------------------------------------------------------------------


def serve(service: Service, path: str, method: str = "GET", route: str = "") -> str | None:
    """The reason why the request was profiled; None when it was not."""
    return service.serve(Endpoint(f"{method} {route or path}", method, path))


def reasons(service: Service, path: str, count: int = 20) -> set[str | None]:
    return {serve(service, path) for _ in range(count)}


def test_an_endpoint_has_its_own_rate_instead_of_the_general_one() -> None:
    service = Service(rate=1.0, endpoint_rates=("GET /orders/{id}=0", "/health=0"))

    assert serve(service, "/orders/7", route="/orders/{}") is None
    assert serve(service, "/orders/7", "POST", route="/orders/{}") == "rate"
    assert [serve(service, "/health", method) for method in ("GET", "HEAD")] == [None, None]
    assert serve(service, "/other") == "rate"


def test_this_very_path_goes_before_its_route_whatever_is_known_of_it() -> None:
    service = Service(rate=0.0, endpoint_rates=("GET /orders/{id}=1", "/users/{name}=0", "/users/bob=1"))
    service.rules('{"endpoint_configs": {"GET /orders/7": {"sampling_rate": 0}}}')

    assert serve(service, "/orders/8", route="/orders/{}") == "rule"
    assert serve(service, "/orders/7", route="/orders/{}") is None
    assert [serve(service, "/users/bob", route=route) for route in ("", "/users/{}")] == ["rule", "rule"]
    assert serve(service, "/users/alice", route="/users/{}") is None


def test_an_endpoint_is_profiled_although_the_general_rate_is_zero() -> None:
    service = Service(rate=0.0, endpoint_rates=("GET /orders=1", "/products/7=1"))

    assert reasons(service, "/orders") == {"rule"}
    assert serve(service, "/products/7", route="/products/{}") == "rule"
    assert serve(service, "/products/8", route="/products/{}") is None


def test_the_rate_is_the_share_of_the_endpoints_requests() -> None:
    service = Service(rate=0.0, endpoint_rates=("/orders=0.3",))

    profiled = sum(serve(service, "/orders") == "rule" for _ in range(10_000))

    assert profiled == pytest.approx(3_000, rel=0.1)


def test_the_platforms_rate_for_the_endpoint_wins_until_it_expires() -> None:
    # Given an endpoint that the settings leave out, and one that they want
    service = Service(rate=0.0, endpoint_rates=("/orders=0", "/products=1"))

    # When the platform decides otherwise for a while
    service.rules(
        '{"endpoint_configs": {"GET /orders": {"sampling_rate": 1, "expires_at": 1000600}, '
        '"GET /products": {"sampling_rate": 0, "expires_at": 1000600}}}'
    )
    assert (reasons(service, "/orders"), reasons(service, "/products")) == ({"rule"}, {None})

    # Then the settings hold again afterwards
    service.date += 600
    assert (reasons(service, "/orders"), reasons(service, "/products")) == ({None}, {"rule"})


def test_the_settings_decide_where_the_platform_does_not() -> None:
    service = Service(rate=0.0, endpoint_rates=("/orders=1", "/health=0"))

    # When the platform has a rate for all endpoints, and for this one a threshold alone
    service.rules('{"sampling_rate": 1, "endpoint_configs": {"GET /orders": {"slow_threshold": 0.5}}}')

    # Then the platform's rate holds for the others
    assert reasons(service, "/orders") == {"rule"}
    assert reasons(service, "/health") == {None}
    assert reasons(service, "/other") == {"rate"}


# --- a real application ------------------------------------------------------------------------------


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """One that profiling is switched on for, by the environment."""
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "0.5")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_ENDPOINT_RATES", "GET /orders/{id}=1,/health=0,/products/none=0")
    provider = TracerProvider(shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(tracer_provider=provider)
    yield provider
    provider.shutdown()


def test_each_endpoint_of_a_flask_application_has_its_rate(
    provider: TracerProvider, profile_of: Callable[[ReadableSpan], object]
) -> None:
    # Given an application with three endpoints; two and a path of the third have a rate of their own
    app = Flask(__name__)
    app.add_url_rule("/orders/<int:number>", "order", lambda number: str(number))
    app.add_url_rule("/health", "health", lambda: "fine")
    app.add_url_rule("/products/<name>", "product", lambda name: name)
    FlaskInstrumentor.instrument_app(app, tracer_provider=provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    # When each of them is asked a hundred times
    client = app.test_client()
    for number in range(100):
        assert client.get(f"/orders/{number}").text == str(number)
        assert client.get("/health").text == "fine"
        assert client.get("/products/any").text == "any"
        assert client.get("/products/none").text == "none"

    # Then all, none, and some of their requests are profiled
    profiled = Counter(
        "/orders" if span.attributes["http.target"].startswith("/orders") else span.attributes["http.target"]
        for span in exporter.get_finished_spans()
        if profile_of(span) is not None
    )
    assert (profiled["/orders"], profiled["/health"], profiled["/products/none"]) == (100, 0, 0)
    assert 0 < profiled["/products/any"] < 100
