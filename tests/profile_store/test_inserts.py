from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bson import ObjectId, encode
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from profile_store.contracts import Refusal
from profile_store.mongodb import inserts
from profile_store.mongodb.inserts import Prepared, insert, prepare

pytestmark = pytest.mark.anyio

PROJECT = ObjectId()


@pytest.fixture
async def collection(
    mongodb_url: str, mongodb_database: str, anyio_backend: str
) -> AsyncIterator[AsyncCollection]:
    async with AsyncMongoClient(mongodb_url) as client:
        yield client[mongodb_database].things


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def prepared(number: int, content: object = None) -> Prepared:
    key = number.to_bytes(24, "big")
    document = {"_id": key, "project_id": PROJECT, "content": content}
    return Prepared(key, (key[-8:],), RawBSONDocument(encode(document)), PROJECT)


@pytest.mark.parametrize("levels", [185, 250], ids=["refused alone", "refused with the whole message"])
@pytest.mark.parametrize("position", [0, 7, 15])
async def test_one_document_that_is_nested_too_deeply_takes_no_other_with_it(collection, levels, position):
    # Given 16 documents of which one is nested deeper than MongoDB stores, or than it accepts on the wire
    items = [prepared(number, nested(levels) if number == position else None) for number in range(16)]
    # When they are inserted
    outcome = await insert(collection, "record", items)
    # Then only that one is refused
    assert outcome.new == 15
    assert list(outcome.refused) == [items[position].key]
    assert await collection.count_documents({}) == 15


async def test_poison_duplicates_and_documents_that_could_not_be_encoded_are_told_apart(collection):
    # Given a batch with a document that is there already and two kinds of poison
    await insert(collection, "record", [prepared(1)])
    unstorable = prepare("record", b"key", (b"span",), lambda: {"_id": "\ud800"})
    items = [prepared(1), prepared(2, nested(250)), unstorable, prepared(3), prepared(4, nested(250))]
    # When it is inserted
    outcome = await insert(collection, "record", items)
    # Then
    assert outcome.new == 1
    assert {key[-1:]: refusal.reason for key, refusal in outcome.refused.items()} == {
        b"\x02": "record_refused",
        b"\x04": "record_refused",
        b"y": "record_unstorable",
    }


async def test_a_duplicate_that_is_gone_when_its_owner_is_looked_up_is_not_refused(collection, monkeypatch):
    # Given a document that is deleted as soon as its repetition was found to be one
    await insert(collection, "record", [prepared(1)])
    real = inserts._owners

    async def owners_afterwards(*arguments):
        await collection.delete_many({})
        return await real(*arguments)

    monkeypatch.setattr(inserts, "_owners", owners_afterwards)
    # When it comes again
    outcome = await insert(collection, "record", [prepared(1)])
    # Then nobody is said to have its id
    assert (outcome.new, outcome.refused) == (0, {})


async def test_nothing_is_sent_for_nothing(collection):
    assert (await insert(collection, "record", [])).new == 0


async def test_a_document_above_the_limit_is_refused_before_it_is_sent():
    item = prepare(
        "profile", b"key", (), lambda: {"_id": b"key", "project_id": PROJECT, "z": bytes(17_000_000)}
    )
    assert isinstance(item.document, Refusal)
    assert item.document.reason == "profile_too_large"


async def test_a_batch_larger_than_one_message_is_stored(collection):
    items = [prepared(number, bytes(9_000_000)) for number in range(7)]
    assert (await insert(collection, "profile", items)).new == 7
