from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from profile_store.model import RecordQuery
from web.record_filters import parse

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_all_filters_reach_the_store() -> None:
    # Given every field of the form in use
    filters = parse(
        {
            "endpoint": " GET /orders ",
            "method": "get",
            "status": "404",
            "version": "1.2",
            "environment": "prod",
            "min_duration_ms": "250.5",
            "range": "1h",
            "profiled": "1",
            "sort": "-duration",
            "page": "3",
        }
    )

    # Then the query holds them all, in the units of the store
    assert filters.store_query("project", NOW) == RecordQuery(
        project_id="project",
        endpoint="GET /orders",
        method="GET",
        status=404,
        version="1.2",
        environment="prod",
        min_duration=0.2505,
        start_time=NOW - timedelta(hours=1),
        profiled=True,
        sort="-duration",
        page=3,
        page_size=50,
    )


def test_an_empty_form_filters_nothing() -> None:
    query = parse(
        dict.fromkeys(["endpoint", "method", "status", "min_duration_ms", "range"], "")
    ).store_query("p", NOW)
    assert query == RecordQuery(project_id="p", page_size=50)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "teapot"),
        ("status", "2"),
        ("status", "٢٠٠"),
        ("min_duration_ms", "fast"),
        ("min_duration_ms", "-1"),
        ("min_duration_ms", "nan"),
        ("min_duration_ms", "inf"),
        ("range", "100y"),
    ],
)
def test_a_senseless_value_is_named_and_nothing_is_asked(name: str, value: str) -> None:
    filters = parse({name: value})
    assert filters.errors == {name}
    assert filters.store_query("p", NOW) is None


def test_parameters_lead_to_the_same_filters_again() -> None:
    filters = parse(
        {"endpoint": "GET /a b&c=d", "status": "failed", "profiled": "1", "sort": "duration", "page": "2"}
    )
    assert parse(filters.parameters()) == filters


def test_sorting_toggles_and_returns_to_the_first_page() -> None:
    # Given the second page in the default order
    filters = parse({"page": "2"})

    # When one column is chosen again and again
    longest = filters.sorted_by("duration")
    shortest = parse(longest).sorted_by("duration")

    # Then its order turns round
    assert longest == {"sort": "-duration"}
    assert shortest == {"sort": "duration"}
    assert filters.sorted_by("timestamp") == {"sort": "timestamp"}
