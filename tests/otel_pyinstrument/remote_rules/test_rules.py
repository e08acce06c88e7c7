from __future__ import annotations

import json

import pytest

from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.remote_rules.rules import (
    NO_RULES,
    EndpointRule,
    InvalidRules,
    read_rules,
    rules_of,
)

CONFIG = {
    "enabled": True,
    "sampling_rate": 0.1,
    "exclude_paths": ["/health"],
    "include_patterns": ["/api/*"],
    "endpoint_configs": {
        "GET /orders/{id}": {"sampling_rate": 1, "slow_threshold": 0.5, "expires_at": "2026-11-21T12:00:00Z"}
    },
    "retention_days": 30,
}
ORDER = Endpoint("GET /orders/{}", "GET", "/orders/7")


@pytest.mark.parametrize("document", [CONFIG, {"code": 0, "msg": "success", "data": CONFIG}])
def test_rules_are_read_plain_and_from_an_answer_of_the_api(document: dict) -> None:
    rules = read_rules(json.dumps(document).encode())

    assert (rules.enabled, rules.sampling_rate) == (True, 0.1)
    assert rules.exclude.match("GET", "/health")
    assert rules.include.match("GET", "/api/a")
    expected = EndpointRule(sampling_rate=1, slow_threshold=0.5, expires_at=1795262400)
    assert rules.rule_for(ORDER, 0) == expected


@pytest.mark.parametrize(
    ("expires_at", "unix"),
    [
        ("2026-11-21T12:00:00+01:00", 1795258800),
        ("2026-11-21T12:00:00", 1795262400),
        ("2026-11-21T12:00:00.000Z", 1795262400),
        (1795262400, 1795262400),
    ],
)
def test_a_rule_holds_until_it_expires(expires_at: object, unix: float) -> None:
    document = {"endpoint_configs": {"GET /orders/<int:number>": {"expires_at": expires_at}}}

    rules = read_rules(json.dumps(document).encode())

    assert rules.rule_for(ORDER, unix - 1) is not None
    assert rules.rule_for(ORDER, unix) is None


def test_a_rule_without_a_method_holds_for_all_that_have_none_of_their_own() -> None:
    # Given rules for a route, for one of its methods until a time, and for a path
    document = {
        "endpoint_configs": {
            "/orders/{id}": {"sampling_rate": 0.1},
            "GET /orders/{number}": {"sampling_rate": 1, "expires_at": 100},
            "/products/7": {"sampling_rate": 0.5},
        }
    }
    rules = read_rules(json.dumps(document).encode())

    def rate(endpoint: Endpoint, now: float = 0) -> float | None:
        rule = rules.rule_for(endpoint, now)
        return None if rule is None else rule.sampling_rate

    # Then
    assert rate(ORDER) == 1
    assert rate(ORDER, now=100) == 0.1
    assert rate(Endpoint("PUT /orders/{}", "PUT", "/orders/7")) == 0.1
    assert rate(Endpoint("GET /products/{}", "GET", "/products/7")) == 0.5
    assert rate(Endpoint("GET /products/{}", "GET", "/products/8")) is None


def test_rates_of_the_settings_are_rules_that_never_expire() -> None:
    rules = rules_of(["GET /orders/<int:number>=0.5", "/health=0"])

    assert rules.rule_for(ORDER, 1e12) == EndpointRule(sampling_rate=0.5)
    assert rules.rule_for(Endpoint("HEAD /health", "HEAD", "/health"), 0) == EndpointRule(sampling_rate=0)
    assert rules.rule_for(Endpoint("PUT /orders/{}", "PUT", "/orders/7"), 0) is None


def test_null_and_missing_decide_nothing() -> None:
    nothing = dict.fromkeys(CONFIG)

    for document in (nothing, {}, {"data": {}}):
        rules = read_rules(json.dumps(document).encode())
        assert (rules.enabled, rules.sampling_rate, rules.endpoints) == (None, None, {})
        assert not rules.include
        assert not rules.exclude
    assert NO_RULES.rule_for(ORDER, 0) is None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"<html>",
        b"\xff",
        b"[]",
        b"null",
        b'"data"',
        b'{"data": []}',
        b'{"data": null}',
        b"[" * 100_000,
        b'{"sampling_rate": ' + b"1" * 5_000 + b"}",
        b'{"enabled": "yes"}',
        b'{"enabled": 1}',
        b'{"sampling_rate": true}',
        b'{"sampling_rate": "1"}',
        b'{"sampling_rate": 1.1}',
        b'{"sampling_rate": -1}',
        b'{"sampling_rate": NaN}',
        b'{"sampling_rate": 1e999}',
        b'{"exclude_paths": "/a"}',
        b'{"exclude_paths": [1]}',
        b'{"exclude_paths": ["health"]}',
        b'{"include_patterns": {"/a": 1}}',
        b'{"endpoint_configs": []}',
        b'{"endpoint_configs": {"GET /a": 1}}',
        b'{"endpoint_configs": {"GET /a": {"sampling_rate": 2}}}',
        b'{"endpoint_configs": {"GET /a": {"slow_threshold": []}}}',
        b'{"endpoint_configs": {"GET /a": {"expires_at": "soon"}}}',
        b'{"endpoint_configs": {"GET /a": {"expires_at": true}}}',
        b'{"endpoint_configs": {"GET /a": {"expires_at": Infinity}}}',
        json.dumps({"exclude_paths": ["/a"] * 1_000}).encode(),
        json.dumps({"endpoint_configs": {f"GET /{i}": {} for i in range(1_000)}}).encode(),
        b" " * 300_000 + b"{}",
    ],
)
def test_anything_else_is_refused_as_a_whole(document: bytes) -> None:
    with pytest.raises(InvalidRules):
        read_rules(document)
