from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from otel_pyinstrument.call_tree import CallTree


def test_a_project_without_requests_says_how_to_send_some(pages: Any) -> None:
    project = pages.project()
    page = pages.get(f"/projects/{project.id}/records")
    assert "No requests yet" in page.text
    assert "opentelemetry-instrument flask run" in page.text


def test_requests_come_newest_first_with_the_function_that_took_most(
    pages: Any, tree_of: Callable[..., CallTree]
) -> None:
    # Given an older profiled and a newer plain request
    project = pages.project()
    now = datetime.now(UTC)
    old = pages.add(
        project,
        endpoint="GET /old",
        timestamp=now - timedelta(hours=1),
        tree=tree_of({"view>load": 0.9, "view": 0.1}),
    )
    new = pages.add(project, endpoint="GET /new", timestamp=now)

    # When the list is opened
    page = pages.get(f"/projects/{project.id}/records")

    # Then both link to their pages, the newer first
    assert page.links["GET /old"] == f"/projects/{project.id}/records/{old.id}"
    assert page.links["GET /new"].endswith(new.id)
    assert page.html.index("GET /new") < page.html.index("GET /old")
    assert "load 90%" in page.text
    assert "not profiled" in page.text


def test_filters_narrow_the_list_and_stay_in_the_form(pages: Any) -> None:
    # Given requests that differ
    project = pages.project()
    pages.add(project, endpoint="GET /slow", duration=2.0)
    pages.add(project, endpoint="GET /fast", duration=0.01)

    # When one is filtered out
    page = pages.get(f"/projects/{project.id}/records?min_duration_ms=500&endpoint=GET+/slow")

    # Then the other is left, and the form shows why
    assert "GET /slow" in page.links
    assert "GET /fast" not in page.links
    assert 'name="min_duration_ms" value="500"' in page.html
    assert page.links["Clear"] == f"/projects/{project.id}/records"


def test_filters_that_match_nothing_say_so(pages: Any) -> None:
    project = pages.project()
    pages.add(project)
    page = pages.get(f"/projects/{project.id}/records?version=9.9")
    assert "No request matches" in page.text
    assert page.links["Show all requests"] == f"/projects/{project.id}/records"


def test_a_senseless_filter_is_explained_beside_the_form(pages: Any) -> None:
    project = pages.project()
    pages.add(project)
    page = pages.get(f"/projects/{project.id}/records?min_duration_ms=%22%3E%3Cscript%3E")
    assert page.status == 200
    assert "give milliseconds as a number" in page.text
    assert 'aria-describedby="min_duration_ms-error"' in page.html
    assert "<script>" not in page.html.replace('<script type="module"', "")


def test_headings_sort_by_link_and_keep_the_filters(pages: Any) -> None:
    # Given requests of different length
    project = pages.project()
    for duration in (0.2, 0.1, 0.3):
        pages.add(project, endpoint=f"GET /{duration}", duration=duration, version="1")

    # When the heading is followed
    page = pages.get(f"/projects/{project.id}/records?version=1")
    sorted_page = pages.get(page.links["Duration"])

    # Then the slowest is first, and the filter is still there
    order = [label for label in sorted_page.links if label.startswith("GET /0")]
    assert order == ["GET /0.3", "GET /0.2", "GET /0.1"]
    assert 'name="version" value="1"' in sorted_page.html
    assert 'aria-sort="descending"' in sorted_page.html


def test_long_lists_come_in_pages_that_keep_the_filters(pages: Any) -> None:
    # Given more requests than fit
    project = pages.project()
    for _ in range(51):
        pages.add(project, version="1")

    # Then the next page holds the rest
    first = pages.get(f"/projects/{project.id}/records?version=1")
    assert "1–50 of 51" in first.text
    second = pages.get(first.links["Next"])
    assert "51–51 of 51" in second.text
    assert "version=1" in second.links["Previous"]

    # And beyond the end there is a way back
    beyond = pages.get(f"/projects/{project.id}/records?version=1&page=9")
    assert "The list ends before this page" in beyond.text
    assert "page=2" in beyond.links["To its last page"]


def test_an_unknown_project_is_not_found(pages: Any) -> None:
    for reference in ["0" * 24, "nonsense", "%00", "..%2f", "x" * 2_000]:
        assert pages.get(f"/projects/{reference}/records").status == 404
