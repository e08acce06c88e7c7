from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import bson
import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.contracts import ProjectLimitReached, TooManyKeys, UnknownProject
from profile_store.mongodb.store import open_mongodb_store
from profile_store.project_keys import MAX_KEYS

pytestmark = pytest.mark.anyio

NOBODY = "6b017725f553b3b44d161362"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(mongodb_url, mongodb_database, anyio_backend, clock):
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_mongodb_store(settings, clock) as opened:
        yield opened


async def valid_keys(store, *keys: str) -> dict[str, str]:
    """Those that let somebody write, and the project of each."""
    return {key: project.id for key, project in (await store.projects_for_keys(keys)).items()}


async def test_a_key_is_shown_once_and_only_its_hash_is_stored(store, documents):
    # When a project is made
    project = await store.create_project("shop")
    secret = project.project_key
    # Then its key is nowhere in the database, and nothing but its beginning can be read again
    [document] = documents("projects")
    assert secret.encode() not in bson.encode(document)
    assert document["keys"][0]["hash"] == hashlib.sha256(secret.encode()).digest()
    again = await store.project(project.id)
    assert again.project_key == project.id
    assert [key.prefix for key in again.keys] == [secret[:12]]
    assert secret not in repr(again)
    # And it still names its project
    assert await store.project(secret) == again
    assert await store.projects_for_keys([secret]) == {secret: again}


async def test_what_is_no_key_names_no_project(store, documents):
    await store.create_project("shop")
    [document] = documents("projects")
    key = document["keys"][0]
    for text in (key["hash"].hex(), key["prefix"], "", "\0", "\ud800", "x" * 100_000, NOBODY):
        assert await store.projects_for_keys([text]) == {}


async def test_a_service_that_comes_by_itself_has_no_key(store):
    # Given two of them: to an index, projects without a key must not be alike
    first, second = [await store.project_for_service(name) for name in ("a", "b")]
    assert (first.keys, second.keys) == ([], [])
    # When one gets a key
    issued = await store.add_key(first.id)
    # Then it is found by it
    assert await valid_keys(store, issued.secret) == {issued.secret: first.id}


async def test_after_a_rotation_the_old_key_is_valid_until_the_end_of_the_overlap(store, clock):
    project = await store.create_project("shop")
    # When the key is rotated
    issued = await store.rotate_key(project.id)
    # Then both are valid for a day
    end = clock.now + timedelta(hours=24)
    assert [key.expires_at for key in (await store.project(project.id)).keys] == [end, None]
    keys = (project.project_key, issued.secret)
    assert await valid_keys(store, *keys) == dict.fromkeys(keys, project.id)
    clock.now = end - timedelta(seconds=1)
    assert await valid_keys(store, *keys) == dict.fromkeys(keys, project.id)
    # And then only the new one
    clock.now = end
    assert await store.project(project.project_key) is None
    assert await valid_keys(store, *keys) == {issued.secret: project.id}
    assert [key.prefix for key in (await store.project(project.id)).keys] == [issued.key.prefix]


async def test_without_overlap_the_old_key_ends_at_once(store):
    project = await store.create_project("shop")
    issued = await store.rotate_key(project.id, overlap=timedelta(0))
    assert await valid_keys(store, project.project_key, issued.secret) == {issued.secret: project.id}


async def test_a_second_rotation_does_not_prolong_the_first_key(store, clock):
    project = await store.create_project("shop")
    await store.rotate_key(project.id, overlap=timedelta(hours=1))
    await store.rotate_key(project.id, overlap=timedelta(hours=9))
    hours = [
        None if key.expires_at is None else (key.expires_at - clock.now) / timedelta(hours=1)
        for key in (await store.project(project.id)).keys
    ]
    assert hours == [1, 9, None]


async def test_one_of_several_keys_is_revoked(store):
    project = await store.create_project("shop")
    second = await store.add_key(project.id)
    assert await store.revoke_key(project.id, project.keys[0].prefix)
    assert await valid_keys(store, project.project_key, second.secret) == {second.secret: project.id}
    # A second time there is nothing to revoke, and the last one may go as well.
    assert not await store.revoke_key(project.id, project.keys[0].prefix)
    assert await store.revoke_key(project.id, second.key.prefix)
    assert (await store.project(project.id)).keys == []


@pytest.mark.parametrize("length", [8, 11, 12, None])
async def test_a_key_is_revoked_by_as_much_of_it_as_names_it(store, length):
    # Given a project with a key
    project = await store.create_project("shop")

    # When it is revoked by a beginning, or the whole of it
    revoked = await store.revoke_key(project.id, project.project_key[:length])

    # Then it has ended
    assert revoked
    assert await valid_keys(store, project.project_key) == {}


@pytest.mark.parametrize("length", [0, 4, 7, 13, -1])
async def test_a_key_is_not_revoked_by_too_little_of_it_nor_by_what_nobody_can_compare(store, length):
    # Given a project with a key
    project = await store.create_project("shop")

    # When somebody names less than is safe, or more than is known of a key without being all of it
    revoked = await store.revoke_key(project.id, project.project_key[:length])

    # Then it stays
    assert not revoked
    assert await valid_keys(store, project.project_key) == {project.project_key: project.id}


async def test_of_keys_that_begin_alike_only_a_whole_one_is_revoked(store, monkeypatch):
    # Given two keys with the same first twelve characters
    first, second = "opk_AbCdEfGh" + "1" * 24, "opk_AbCdEfGh" + "2" * 24
    project = await store.project_for_service("shop")
    for secret in (first, second):
        monkeypatch.setattr("profile_store.mongodb.project_keys.fresh_key", lambda secret=secret: secret)
        await store.add_key(project.id)

    # When one is to be revoked by these, then both stay
    assert not await store.revoke_key(project.id, "opk_AbCdEfGh")
    assert set(await valid_keys(store, first, second)) == {first, second}

    # When the whole of it is given, then the other stays
    assert await store.revoke_key(project.id, first)
    assert set(await valid_keys(store, first, second)) == {second}


async def test_a_project_has_a_bounded_number_of_keys(store, clock):
    project = await store.create_project("shop")
    for _ in range(MAX_KEYS - 1):
        await store.add_key(project.id)
    with pytest.raises(TooManyKeys, match="revoke one"):
        await store.add_key(project.id)
    with pytest.raises(TooManyKeys):
        await store.rotate_key(project.id)
    # At the end of an overlap there is room again, and without one at once.
    await store.rotate_key(project.id, overlap=timedelta(0))
    await store.rotate_key(project.id, overlap=timedelta(hours=1))
    clock.now += timedelta(hours=1)
    for _ in range(MAX_KEYS - 1):
        await store.add_key(project.id)


async def test_keys_that_are_issued_at_the_same_moment_are_all_valid(store):
    project = await store.create_project("shop")
    issued = await asyncio.gather(*(store.add_key(project.id) for _ in range(5)))
    secrets = [item.secret for item in issued] + [project.project_key]
    assert set(await store.projects_for_keys(secrets)) == set(secrets)


@pytest.mark.parametrize("project_id", [NOBODY, "", "no id", "\ud800"])
async def test_an_unknown_project_gets_no_key(store, project_id):
    for change in (
        store.add_key(project_id),
        store.rotate_key(project_id),
        store.revoke_key(project_id, "opk_"),
        store.set_retention(project_id, 3),
    ):
        with pytest.raises(UnknownProject):
            await change


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=366)])
async def test_an_overlap_out_of_bounds_changes_nothing(store, overlap):
    project = await store.create_project("shop")
    with pytest.raises(ValueError, match="0 to 365 days"):
        await store.rotate_key(project.id, overlap=overlap)
    assert len((await store.project(project.id)).keys) == 1


async def test_many_keys_and_services_are_looked_up_at_once(store):
    projects = [await store.create_project(name) for name in ("a", "b")]
    await store.add_key(projects[0].id)
    keys = [project.project_key for project in projects]
    found = await store.projects_for_keys([*keys, "wrong", "\ud800"])
    assert {key: project.name for key, project in found.items()} == dict(zip(keys, "ab", strict=True))
    services = await store.projects_for_services([" a ", "a", "c", "\ud800"])
    assert {service: project.id for service, project in services.items()} == {
        " a ": projects[0].id,
        "a": projects[0].id,
    }
    assert await store.projects_for_keys([]) == await store.projects_for_services([]) == {}


async def test_with_as_many_projects_as_allowed_no_more_come_by_themselves(store):
    # Given as many projects as are allowed
    known = await store.project_for_service("a", max_projects=2)
    await store.create_project("b")
    # When another service comes
    with pytest.raises(ProjectLimitReached, match="2"):
        await store.project_for_service("c", max_projects=2)
    # Then those that exist are still found, nothing was made, and the operator may make more
    assert await store.project_for_service("a", max_projects=2) == known
    assert (await store.projects()).total == 2
    await store.create_project("c")
    assert (await store.project_for_service("c", max_projects=2)).name == "c"


# --- documents of earlier versions -------------------------------------------------------------------------


def former_project(name: str, key: str, **changes: object) -> dict[str, object]:
    """As the versions before stored it."""
    moment = datetime(2026, 10, 1, tzinfo=UTC)
    return {
        "name": name,
        "project_key": key,
        "description": "",
        "framework": "other",
        "base_url": "",
        "status": "active",
        "config": {},
        "created_at": moment,
        "updated_at": moment,
        "last_activity": None,
    } | changes


async def test_keys_in_plain_text_are_hashed_when_a_store_is_opened(mongodb_url, mongodb_database):
    # Given projects of an earlier version, with its index
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    with MongoClient(mongodb_url) as client:
        projects = client[mongodb_database].projects
        projects.create_index("project_key", name="project_key", unique=True)
        projects.insert_many([former_project(name, f"opk_{name * 32}") for name in "abc"])

        # When stores are opened, several at once and again later
        async def names() -> list[str]:
            async with open_store(settings) as store:
                keys = [f"opk_{name * 32}" for name in "abc"]
                found = await store.projects_for_keys(keys)
                return [found[key].name for key in keys]

        assert await asyncio.gather(names(), names(), names()) == [["a", "b", "c"]] * 3
        before = list(projects.find())
        assert await names() == ["a", "b", "c"]
        # Then their keys are still valid, and nobody can read them any more
        assert list(projects.find()) == before
        assert not any("project_key" in document for document in before)
        assert all(len(document["keys"]) == 1 for document in before)
        assert "project_key" not in projects.index_information()


async def test_a_migration_that_was_interrupted_goes_on(mongodb_url, mongodb_database):
    # Given a database in which somebody died after the first project: the former index is gone already
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    with MongoClient(mongodb_url) as client:
        projects = client[mongodb_database].projects
        async with open_store(settings) as store:
            done = await store.create_project("done")
        projects.insert_one(former_project("waiting", "opk_" + "w" * 32))
        # When the next one opens it
        async with open_store(settings) as store:
            # Then both keys are valid
            found = await store.projects_for_keys([done.project_key, "opk_" + "w" * 32])
            assert {project.name for project in found.values()} == {"done", "waiting"}
        assert projects.count_documents({"project_key": {"$exists": True}}) == 0
