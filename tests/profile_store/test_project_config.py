"""What an operator may set of a project, and that applications and receivers take what may be set."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from analysis_api.profiling_rules import rules_body
from collector_receiver.rate_limit import RateLimit
from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.remote_rules.rules import MAX_BYTES, read_rules
from profile_store.contracts import InvalidProject
from profile_store.model import Project
from profile_store.project_config import MAX_JSON_BYTES, checked

MOMENT = "2027-01-31T12:00:00Z"


def project_with(config) -> Project:
    now = datetime.fromisoformat(MOMENT)
    return Project(id="x", name="x", project_key="x", config=config, created_at=now, updated_at=now)


def test_applications_read_what_may_be_set() -> None:
    # Given rules that may be set
    config = checked(
        {
            "enabled": True,
            "sampling_rate": 0.05,
            "exclude_paths": ["/health", "OPTIONS"],
            "include_patterns": ["GET /api/*"],
            "endpoint_configs": {
                "GET /orders/{id}": {"sampling_rate": 1, "slow_threshold": 0.5, "expires_at": MOMENT}
            },
        }
    )

    # When an application reads them as the API tells them
    rules = read_rules(json.dumps(rules_body(project_with(config))).encode())

    # Then they say the same there
    assert (rules.enabled, rules.sampling_rate) == (True, 0.05)
    assert rules.exclude.match("GET", "/health")
    assert rules.include.match("GET", "/api/orders")
    endpoint = Endpoint("GET /orders/{}", "GET", "/orders/7")
    rule = rules.rule_for(endpoint, 0.0)
    assert rule is not None
    assert (rule.sampling_rate, rule.slow_threshold) == (1.0, 0.5)
    assert rule.expires_at == datetime.fromisoformat(MOMENT).timestamp()


def test_the_largest_rules_that_may_be_set_are_not_too_large_for_applications() -> None:
    endpoint = {f"GET /{number:0100}": {"sampling_rate": 0.5} for number in range(450)}
    config = checked(
        {
            "endpoint_configs": endpoint,
            "exclude_paths": [f"/{number:0300}" for number in range(200)],
            "include_patterns": [f"/{number:0300}" for number in range(200)],
        }
    )

    document = json.dumps(rules_body(project_with(config))).encode()

    assert MAX_JSON_BYTES * 2 < len(document) < MAX_BYTES
    read_rules(document)


def test_receivers_read_the_limits_that_may_be_set() -> None:
    config = checked({"max_spans_per_second": 500, "max_bytes_per_second": 1e6})

    assert RateLimit().of_project(config) == RateLimit(spans=500, bytes=1e6)


def test_none_removes_a_value_and_is_not_looked_at() -> None:
    assert checked({"endpoint_configs": None}) == {"endpoint_configs": None}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sampling_rates", 1, "'sampling_rates' cannot be set in a config: there are enabled, sampling_rate"),
        ("retention_days", 7, "use set-retention"),
        ("a.b", 7, "'a.b' cannot be set"),
        ("$set", None, "'$set' cannot be set"),
        ("enabled", "yes", "enabled is 'yes': use true or false"),
        ("sampling_rate", 1.5, "sampling_rate is 1.5: use a number from 0 to 1"),
        ("sampling_rate", True, "use a number"),
        ("sampling_rate", float("nan"), "sampling_rate is nan"),
        ("max_spans_per_second", 10**30, "use a number from 0 to 1000000000000"),
        ("max_bytes_per_second", -1, "max_bytes_per_second is -1"),
        ("exclude_paths", "/health", "exclude_paths is '/health': use texts such as"),
        ("exclude_paths", ["/a", 5], "use texts such as"),
        ("include_patterns", ["orders"], "'orders' is not like /orders/*"),
        ("include_patterns", ["/a\ud800"], "control characters"),
        ("include_patterns", ["/a"] * 201, "more than 200 patterns"),
        ("include_patterns", ["/" + "\u1234" * 400] * 50, "as JSON: use at most 65536"),
        ("endpoint_configs", ["GET /a"], "use rules by endpoint such as"),
        ("endpoint_configs", {f"/{number}": {} for number in range(501)}, "use at most 500"),
        ("endpoint_configs", {"orders": {}}, "'orders' is no endpoint such as GET /orders/{id}"),
        ("endpoint_configs", {"GET /\0": {}}, "is no endpoint such as"),
        ("endpoint_configs", {"GET /a": 1}, "'GET /a' has 1: use an object"),
        ("endpoint_configs", {"GET /a": {"rate": 1}}, "'GET /a' has 'rate': there are sampling_rate, slow"),
        ("endpoint_configs", {"GET /a": {"sampling_rate": 2}}, "'GET /a': sampling_rate is 2"),
        ("endpoint_configs", {"GET /a": {"slow_threshold": "1s"}}, "slow_threshold is '1s'"),
        ("endpoint_configs", {"GET /a": {"expires_at": "tomorrow"}}, "expires_at is 'tomorrow'"),
        ("endpoint_configs", {"GET /a": {"expires_at": "2027-06-31T12:00:00Z"}}, "such as 2027-01-31T12"),
        ("endpoint_configs", {"GET /a": {"expires_at": "2027-01-31T12:00:00"}}, "a time with its zone"),
    ],
    ids=repr,
)
def test_what_nobody_would_understand_is_refused_by_name(name, value, words) -> None:
    with pytest.raises(InvalidProject) as problem:
        checked({name: value})

    assert words in str(problem.value)
