"""Spans as the standard instrumentations write them, and the facts that come out of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanKind


@pytest.fixture
def facts_of() -> Callable[[ReadableSpan], dict]:
    """The facts on a request's profile."""

    def read(span: ReadableSpan) -> dict:
        (event,) = [event for event in span.events if event.name == "pyinstrument.profile"]
        return json.loads(event.attributes["pyinstrument.facts"])

    return read


@pytest.fixture
def child(traced) -> Callable[..., object]:
    """A client span with attributes, of a named instrumentation."""

    @contextmanager
    def make(
        attributes: dict, *, scope: str = "sqlite3", name: str = "SELECT", **options: object
    ) -> Iterator[Span]:
        tracer = traced.provider.get_tracer(f"opentelemetry.instrumentation.{scope}")
        with tracer.start_as_current_span(name, **{"kind": SpanKind.CLIENT} | options) as span:
            for key, value in attributes.items():
                span.set_attribute(key, value)
            yield span

    return make
