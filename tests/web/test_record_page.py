from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from otel_pyinstrument.call_tree import ROOT, CallTree
from profile_store.model import SpanEvent


@pytest.fixture
def tree(tree_of: Callable[..., CallTree]) -> CallTree:
    return tree_of({"view>load>QUERY": 0.5, "view>load": 0.1, "view>render>ESCAPE": 0.3, "MIDDLEWARE>x": 0.1})


def test_a_profiled_request_shows_its_facts_and_its_heavy_path(pages: Any, tree: CallTree) -> None:
    # Given a profiled request
    project = pages.project()
    record = pages.add(project, tree=tree, version="1.4.2", environment="production", duration=1.0)

    # When its page is opened
    page = pages.get(f"/projects/{project.id}/records/{record.id}")

    # Then it names what a developer asks first
    assert "GET /orders 200" in page.text
    for fact in ["1.00 s", "250 ms", "750 ms", "1.4.2", "production", "load shop/load.py:7"]:
        assert fact in page.text
    assert record.trace_id.hex() in page.html
    assert f'data-source="/projects/{project.id}/records/{record.id}/flame.json?format=1"' in page.html


def test_a_request_without_profile_says_why_and_what_to_do(pages: Any) -> None:
    project = pages.project()
    record = pages.add(project)
    page = pages.get(f"/projects/{project.id}/records/{record.id}")
    assert page.status == 200
    assert "This request was not profiled" in page.text
    assert "OTEL_PYINSTRUMENT_RATE" in page.text
    assert "OTEL_PYINSTRUMENT_CPU_BUDGET" in page.text
    assert "data-flame" not in page.html


def test_a_request_shorter_than_the_interval_says_so_instead_of_drawing_one_bar(pages: Any) -> None:
    # Given a profile that has only its root, with the time of the whole request
    project = pages.project()
    record = pages.add(project, tree=CallTree([ROOT], [-1], [0], [2_500], [0]))

    # When its page is opened
    page = pages.get(f"/projects/{project.id}/records/{record.id}")

    # Then the reason and the setting stand there
    assert "Too short for a flame graph" in page.text
    assert "it took 2.50 ms" in page.text
    assert "OTEL_PYINSTRUMENT_INTERVAL" in page.text
    assert "data-flame" not in page.html


def test_a_failed_request_shows_its_exception(pages: Any) -> None:
    # Given a request that raised
    project = pages.project()
    event = SpanEvent(
        name="exception",
        time_unix_nano=1,
        attributes={
            "exception.type": "KeyError",
            "exception.message": "'<sku>'",
            "exception.stacktrace": "Traceback:\n  File shop.py",
        },
    )
    record = pages.add(project, status_code=500, failed=True, events=[event])

    # Then the page tells it, with the lines of the traceback
    page = pages.get(f"/projects/{project.id}/records/{record.id}")
    assert "KeyError '<sku>'" in page.text
    assert "Traceback:\n  File shop.py" in page.html


def test_secrets_are_masked(pages: Any) -> None:
    project = pages.project()
    record = pages.add(
        project,
        attributes={
            "http.request.header.authorization": ["Bearer hunter2"],
            "url.query": "token=hunter2&page=1",
        },
    )
    page = pages.get(f"/projects/{project.id}/records/{record.id}")
    assert "hunter2" not in page.html
    assert "page=1" in page.text


def test_flame_data_is_immutable_and_has_an_etag(pages: Any, tree: CallTree) -> None:
    # Given the data of a record
    project = pages.project()
    record = pages.add(project, tree=tree)
    address = f"/projects/{project.id}/records/{record.id}/flame.json"
    first = pages.get(address).response
    assert first.headers["content-type"] == "application/json"
    assert first.json()["nodes"]["parent"] == tree.parent
    assert "immutable" in first.headers["cache-control"]

    # When it is asked for again with its tag
    again = pages.get(address, if_none_match=first.headers["etag"]).response

    # Then nothing is sent
    assert again.status_code == 304
    assert again.content == b""


def test_children_of_a_row_come_as_rows(pages: Any, tree: CallTree) -> None:
    project = pages.project()
    record = pages.add(project, tree=tree)
    view = next(node for node in range(tree.node_count) if tree.frames[tree.frame[node]].function == "view")
    fragment = pages.get(f"/projects/{project.id}/records/{record.id}/tree?node={view}", hx_request="true")
    assert fragment.html.strip().startswith("<tr")
    assert fragment.html.count("<tr") == 2
    assert 'aria-level="3"' in fragment.html
    assert "600 ms" in fragment.text


@pytest.mark.parametrize(
    "query", ["node=99", "node=-1", "node=x", "node=" + "9" * 5_000, "offset=-1", "node=٣"]
)
def test_a_senseless_row_is_not_found_and_answered_as_a_row(query: str, pages: Any, tree: CallTree) -> None:
    project = pages.project()
    record = pages.add(project, tree=tree)
    answer = pages.get(f"/projects/{project.id}/records/{record.id}/tree?{query}", hx_request="true")
    assert answer.status == 404
    assert answer.html.startswith("<tr")


def test_what_is_missing_is_not_found_and_not_kept_by_caches(pages: Any, tree: CallTree) -> None:
    # Given two projects with one record each
    shop, other = pages.project("shop"), pages.project("other")
    record = pages.add(shop, tree=tree)
    plain = pages.add(shop)

    # Then neither a wrong id nor another project's address leads to it
    for address in [
        f"/projects/{shop.id}/records/{'0' * 48}",
        f"/projects/{shop.id}/records/nonsense",
        f"/projects/{other.id}/records/{record.id}",
        f"/projects/{other.id}/records/{record.id}/flame.json",
        f"/projects/{other.id}/records/{record.id}/tree?node=0",
        f"/projects/{shop.id}/records/{plain.id}/flame.json",
        f"/projects/{shop.id}/records/{record.id}/nothing",
    ]:
        answer = pages.get(address)
        assert answer.status == 404, address
        assert answer.response.headers["cache-control"] == "no-store"
