"""Senders find their project by key or by service name, on a real store."""

import secrets

import pytest

from collector_receiver.projects import MAX_PROJECTS_PER_REQUEST, Projects
from collector_receiver.translation import Destination

pytestmark = pytest.mark.anyio

MISSING = Destination(refusal="missing_project_key")
UNKNOWN = Destination(refusal="unknown_project_key")


async def test_in_open_mode_a_service_becomes_a_project(store, make):
    projects = Projects(store, "open")

    found = await projects.destinations([make.resource_spans(resource={"service.name": "shop"})], None)

    assert found == [Destination(project_id=(await store.project_for_service("shop")).id)]


@pytest.mark.parametrize(
    "resource", [{}, {"service.name": ""}, {"service.name": 5}, {"service.name": "\n\x00"}]
)
async def test_a_service_without_a_name_has_a_project_too(store, make, resource):
    found = await Projects(store, "open").destinations([make.resource_spans(resource=resource)], None)

    assert found == [Destination(project_id=(await store.project_for_service("unknown_service")).id)]


@pytest.mark.parametrize("mode", ["open", "key"])
async def test_the_key_of_the_request_decides_for_all_resources(store, make, mode):
    project = await store.create_project("orders")
    batches = [make.resource_spans(resource={"service.name": name}) for name in ("a", "b")]

    found = await Projects(store, mode).destinations(batches, project.project_key)

    assert found == [Destination(project_id=project.id)] * 2


@pytest.mark.parametrize("mode", ["open", "key"])
async def test_the_key_of_a_resource_decides_for_it(store, make, mode):
    """As a shared Collector sends it."""
    project = await store.create_project("orders")
    batches = [
        make.resource_spans(resource={"project.key": project.project_key, "service.name": "other"}),
        make.resource_spans(resource={"project.key": "wrong"}),
    ]

    assert await Projects(store, mode).destinations(batches, None) == [
        Destination(project_id=project.id),
        UNKNOWN,
    ]


async def test_in_key_mode_a_service_name_is_not_enough(store, make):
    found = await Projects(store, "key").destinations([make.resource_spans()], None)

    assert found == [MISSING]


@pytest.mark.parametrize("key", ["wrong", "\x00", "é" * 5_000, '{"$ne": 1}'])
async def test_a_wrong_key_is_refused_in_either_mode(store, make, key):
    for mode in ("open", "key"):
        assert await Projects(store, mode).destinations([make.resource_spans()], key) == [UNKNOWN]


async def test_an_empty_key_is_a_missing_key(store, make):
    assert await Projects(store, "open").destinations([make.resource_spans()], "") == [MISSING]


async def test_a_key_made_later_works_within_seconds(store, make):
    # Given a project whose key a sender had wrong
    now = [0.0]
    projects = Projects(store, "key", clock=lambda: now[0])
    assert await projects.of_key("wrong") == UNKNOWN
    project = await store.create_project("orders")

    # When the right one is used, and the wrong one later again
    assert await projects.of_key(project.project_key) == Destination(project_id=project.id)
    now[0] = 5.1
    assert await projects.of_key("wrong") == UNKNOWN


async def test_what_was_looked_up_is_remembered_for_thirty_seconds(
    store, make, mongodb_url, mongodb_database
):
    # Given a project that was found once, and then removed behind our back
    now = [0.0]
    projects = Projects(store, "key", clock=lambda: now[0])
    project = await store.create_project("orders")
    known = await projects.of_key(project.project_key)
    from pymongo import MongoClient

    with MongoClient(mongodb_url) as client:
        client[mongodb_database]["projects"].delete_many({})

    # Then it is known for a while, and no longer
    now[0] = 29.9
    assert await projects.of_key(project.project_key) == known
    now[0] = 30.1
    assert await projects.of_key(project.project_key) == UNKNOWN


async def test_what_is_remembered_is_bounded(store, monkeypatch):
    monkeypatch.setattr("collector_receiver.projects.MAX_REMEMBERED", 3)
    projects = Projects(store, "key")

    for _ in range(10):
        await projects.of_key(secrets.token_hex(8))

    assert len(projects._remembered) == 3


async def test_one_request_cannot_make_endless_projects(store, make, monkeypatch):
    monkeypatch.setattr("collector_receiver.projects.MAX_PROJECTS_PER_REQUEST", 3)
    names = ["a", "b", "c", "d", "a"]

    found = await Projects(store, "open").destinations(
        [make.resource_spans(resource={"service.name": name}) for name in names], None
    )

    assert [destination.refusal for destination in found] == ["", "", "", "too_many_projects", ""]
    assert MAX_PROJECTS_PER_REQUEST == 256
