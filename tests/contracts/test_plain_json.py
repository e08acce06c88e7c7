"""Records from plain JSON in a real store: as they were told, and each once."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from collector_receiver.endpoint import path_template
from profile_store.model import RecordQuery
from profile_store.name_list import SEATS
from profile_store.plain_json import Destination, Outcome, read, settle, translate

pytestmark = pytest.mark.anyio

BODY = [
    {
        "request_id": "r-1",
        "endpoint": "GET /orders",
        "method": "GET",
        "duration": 0.5,
        "function_calls": [{"function": "view", "file": "shop/a.py", "line": 3, "duration": 0.4}],
    },
    {"request_id": "r-2", "endpoint": "GET /orders", "duration": 0.1, "status_code": 500},
    {"request_id": "r-3", "endpoint": "GET /orders", "duration": "slow"},
    {"request_id": "r-1", "endpoint": "GET /orders", "duration": 0.5},
]


async def send(store: Any, body: object, project_id: str) -> Outcome:
    translated = translate(
        read(json.dumps(body).encode()),
        {},
        arrival=datetime.now(UTC),
        path_template=path_template,
        default=Destination(project_id),
    )
    return settle(translated, await store.write(translated.batch))


async def test_good_records_are_stored_and_read_back_although_one_is_bad(store, project_id):
    # When four records are sent, one of them bad, one twice
    outcome = await send(store, BODY, project_id)
    # Then the good ones are accepted, and the one that came twice is stored once
    assert [item.index for item in outcome.accepted] == [0, 1, 3]
    assert [(item.index, item.reason) for item in outcome.rejected] == [(2, "record_format")]
    page = await store.records(RecordQuery(project_id=project_id))
    assert {record.id for record in page.items} == {item.record_id for item in outcome.accepted}
    assert page.total == 2
    detail = await store.record(project_id, outcome.accepted[0].record_id)
    assert [detail.call_tree.frames[frame].function for frame in detail.call_tree.frame] == [
        "[request]",
        "view",
    ]
    assert detail.call_tree.self_us == [100_000, 400_000]
    assert detail.record.duration == 0.5
    failed = await store.record(project_id, outcome.accepted[1].record_id)
    assert (failed.record.failed, failed.call_tree) == (True, None)


async def test_sending_again_changes_nothing(store, project_id, documents):
    first = await send(store, BODY, project_id)
    before = [documents(name) for name in ("performance_records", "profiles")]
    again = await send(store, BODY, project_id)
    assert again == first
    assert [documents(name) for name in ("performance_records", "profiles")] == before


async def test_a_project_is_found_by_the_key_in_the_record(store):
    # Given a project with a key
    project = await store.create_project("shop")
    body = {"project_key": project.project_key, "endpoint": "GET /", "duration": 1}
    # When a record names it
    sent = read(json.dumps([body, {**body, "project_key": "opk_wrong"}]).encode())
    found = await store.projects_for_keys(sent.project_keys)
    destinations = {key: Destination.of(named) for key, named in found.items()}
    translated = translate(sent, destinations, arrival=datetime.now(UTC), path_template=str)
    outcome = settle(translated, await store.write(translated.batch))
    # Then it is stored there, and that of a wrong key nowhere; the key is not in the record
    assert [(item.index, item.reason) for item in outcome.rejected] == [(1, "unknown_project_key")]
    detail = await store.record(project.id, outcome.accepted[0].record_id)
    assert project.project_key not in repr(detail)
    assert (await store.projects()).total == 1


async def endpoints(store: Any, project_id: str) -> dict[str, str]:
    """The endpoint of each record, by its id."""
    found: dict[str, str] = {}
    for page in itertools.count(1):
        query = RecordQuery(project_id=project_id, page=page, page_size=5_000)
        if not (items := (await store.records(query)).items):
            return found
        found |= {record.id: record.endpoint for record in items}
    raise AssertionError


def requests_of_paths(numbers: range, status_code: int, **more: Any) -> list[dict[str, Any]]:
    """Requests that name no endpoint, of paths without digits, so that no template makes few of them."""
    letters = str.maketrans("0123456789", "ghijklmnop")
    return [
        {
            "request_info": {"path": "/" + "/".join(f"{number:04}".translate(letters)), **more},
            "status_code": status_code,
            "duration": 0.1,
        }
        for number in numbers
    ]


async def test_endless_methods_make_few_endpoints(store, project_id):
    # Given senders that make up a method for each request, in each of the places where it may stand
    methods = [f"BREW{chr(97 + number // 20)}{chr(97 + number % 20)}" for number in range(300)]
    body = [{"endpoint": "/orders", "method": method, "duration": 0.1} for method in methods]
    body += [{"endpoint": f"{method} /orders", "duration": 0.1} for method in methods]
    body += [{"request_info": {"path": "/carts", "method": method}, "duration": 0.1} for method in methods]

    outcome = await send(store, body, project_id)

    # Then all of them count as one
    assert outcome.rejected == []
    assert set((await endpoints(store, project_id)).values()) == {"_OTHER /orders", "_OTHER /carts"}


async def test_paths_and_client_errors_take_no_seat_of_a_declared_route(store, project_id):
    # Given a scanner: endless paths that are not there, and that a careless application answers
    for numbers in (range(1_000), range(1_000, 2_000)):
        for scanned in (
            requests_of_paths(numbers, 404, method="GET"),
            requests_of_paths(numbers, 200, method="GET"),
            requests_of_paths(numbers, 200),
        ):
            assert (await send(store, scanned, project_id)).rejected == []

    # When the application names its routes afterwards
    routes = [f"GET /pages/{{p{number}}}" for number in range(SEATS["declared"])]
    outcome = await send(store, [{"endpoint": route, "duration": 0.1} for route in routes], project_id)

    # Then each has its own name, and the paths have few
    found = await endpoints(store, project_id)
    assert [found[item.record_id] for item in outcome.accepted] == routes
    others = set(found.values()) - set(routes)
    assert len(others) <= SEATS["paths"] + SEATS["branches"] + 3
    assert others >= {"GET /{unmatched}", "GET /{*}", "/{*}"}
