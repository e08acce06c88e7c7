"""Shard keys: one for each collection, with the indexes that it needs, and the commands in the manual."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from profile_store.mongodb.indexes import _INDEXES as INDEXES
from profile_store.mongodb.sharding import SHARD_KEYS, commands

MANUAL = Path(__file__).parents[2] / "docs" / "operations.md"
SHARDED = {collection: key for collection, key in SHARD_KEYS.items() if key is not None}


def test_every_collection_has_a_key_or_stays_on_one_shard() -> None:
    assert set(SHARD_KEYS) >= set(INDEXES)


@pytest.mark.parametrize("collection", SHARDED)
def test_a_sharded_collection_is_divided_by_project(collection) -> None:
    assert next(iter(SHARDED[collection])) == "project_id"


@pytest.mark.parametrize("collection", SHARDED)
def test_every_index_of_a_sharded_collection_begins_with_the_project(collection) -> None:
    # Expiry is the database's own question, and each shard asks it for itself
    for index in (each.document for each in INDEXES[collection] if each.document["name"] != "expiry"):
        assert next(iter(index["key"])) == "project_id", index


@pytest.mark.parametrize("collection", SHARDED)
def test_the_key_has_an_index_or_a_command_that_makes_it(collection) -> None:
    key = list(SHARDED[collection])
    has_one = any(list(each.document["key"])[: len(key)] == key for each in INDEXES[collection])
    makes_one = any(f".{collection}.createIndex(" in line for line in commands("shop"))

    assert has_one != makes_one


@pytest.mark.parametrize("collection", SHARDED)
def test_a_unique_index_begins_with_the_whole_key(collection) -> None:
    key = list(SHARDED[collection])
    for index in (each.document for each in INDEXES[collection] if each.document.get("unique")):
        assert list(index["key"])[: len(key)] == key, index


def test_the_manual_has_the_commands_as_they_are_printed() -> None:
    assert "```js\n" + "\n".join(commands("otel_pyinstrument")) + "\n```" in MANUAL.read_text("utf-8")


def test_the_command_prints_them_for_the_database_that_is_set(monkeypatch) -> None:
    monkeypatch.setenv("MONGODB_DATABASE", "shop")
    command = [sys.executable, "-m", "profile_store.mongodb.sharding"]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert printed == "".join(f"{line}\n" for line in commands("shop"))
    assert 'sh.shardCollection("shop.profiles", {"project_id": 1, "_id": 1});' in printed


def test_the_command_names_a_bad_setting(monkeypatch) -> None:
    monkeypatch.setenv("MONGODB_DATABASE", "admin")
    command = [sys.executable, "-m", "profile_store.mongodb.sharding"]

    refused = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "MONGODB_DATABASE: is a system database of MongoDB, name another\n"
