"""Unordered inserts in which no document can take another one with it.

`insert_many(ordered=False)` stores nothing at all when the driver cannot encode one document, or when the
server refuses the message for the sake of one. So documents are encoded here one by one, and a refused
message is halved until the culprit stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bson import encode
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, OperationFailure

from profile_store.contracts import Refusal, StoreUnavailable, UnknownStoreError
from profile_store.mongodb.client import Collection, Document, newest

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

_DUPLICATE_KEY = 11000
# BadValue, Overflow (nesting), InvalidBSON, DocumentValidationFailure, BSONObjectTooLarge, KeyTooLong.
_REFUSED_CODES = {2, 15, 22, 121, 10334, 17280}


class Prepared(NamedTuple):
    """One encoded document, or why there is none. `span_ids` are lost when it is refused."""

    key: bytes
    span_ids: Sequence[bytes]
    document: RawBSONDocument | Refusal
    project_id: object = None


@dataclass(slots=True)
class Inserted:
    """`new` counts documents that were not there before; `refused` holds, by key, those that never are."""

    new: int = 0
    refused: dict[bytes, Refusal] = field(default_factory=dict[bytes, Refusal])


def prepare(what: str, key: bytes, span_ids: Sequence[bytes], build: Callable[[], Document]) -> Prepared:
    """Build and encode one document. `what` begins the names of refusals: "record", "profile"."""
    try:
        document = build()
        raw = encode(document)
    except (BSONError, ValueError, OverflowError, TypeError, RecursionError) as error:
        message = f"{what}: a value cannot be stored ({type(error).__name__})"
        return Prepared(
            key, span_ids, Refusal(span_ids=span_ids, reason=f"{what}_unstorable", message=message)
        )
    if len(raw) > MAX_DOCUMENT_BYTES:
        message = f"{what}: {len(raw)} bytes, more than {MAX_DOCUMENT_BYTES}"
        return Prepared(
            key, span_ids, Refusal(span_ids=span_ids, reason=f"{what}_too_large", message=message)
        )
    return Prepared(document["_id"], span_ids, RawBSONDocument(raw), document["project_id"])


async def insert(collection: Collection, what: str, items: Sequence[Prepared]) -> Inserted:
    """Insert all; what is there already is left as it is and counts as stored.

    Raises:
        StoreUnavailable: some documents may not be durable.
        PyMongoError: the same, from the driver.
    """
    outcome = Inserted()
    duplicates: list[Prepared] = []
    encoded: list[Prepared] = []
    for item in items:
        if isinstance(item.document, Refusal):
            outcome.refused[item.key] = item.document
        else:
            encoded.append(item)
    pending = [encoded] if encoded else []
    while pending:
        part = pending.pop()
        refused_with, details = await _send(collection, [item.document for item in part])
        if refused_with is None:
            duplicates += _settle(what, part, details, outcome)
        elif len(part) > 1:
            middle = len(part) // 2
            pending += [part[:middle], part[middle:]]
        else:
            outcome.refused[part[0].key] = _refusal(what, part[0], refused_with)
    if duplicates:
        outcome.refused |= await _taken_by_others(newest(collection), what, duplicates)
    return outcome


async def _send(collection: Collection, documents: Sequence[Any]) -> tuple[int | None, Mapping[str, Any]]:
    """One message: the code with which the server refused it as a whole, if it did, and its details.

    The driver's error ends here, as its text and `details` repeat whole documents: neither may reach a log.
    """
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        return None, error.details
    except OperationFailure as error:
        if error.code not in _REFUSED_CODES:
            raise
        return error.code, {}
    return None, {"nInserted": len(documents)}


def _settle(
    what: str, part: Sequence[Prepared], details: Mapping[str, Any], outcome: Inserted
) -> list[Prepared]:
    """Sort the results of one message and return the duplicates."""
    if details.get("writeConcernErrors"):
        raise StoreUnavailable(f"MongoDB could not confirm the majority write of {what}")
    outcome.new += details.get("nInserted", 0)
    duplicates: list[Prepared] = []
    for error in details.get("writeErrors", ()):
        item, code = part[int(error["index"])], int(error["code"])
        if code == _DUPLICATE_KEY:
            duplicates.append(item)
        elif code in _REFUSED_CODES:
            outcome.refused[item.key] = _refusal(what, item, code)
        else:
            raise UnknownStoreError(f"MongoDB could not store {what}: write error {code}")
    return duplicates


def _refusal(what: str, item: Prepared, code: int) -> Refusal:
    message = f"{what}: the database refuses this document (code {code})"
    return Refusal(span_ids=item.span_ids, reason=f"{what}_refused", message=message)


async def _taken_by_others(
    collection: Collection, what: str, duplicates: Sequence[Prepared]
) -> dict[bytes, Refusal]:
    """A duplicate is stored already, unless another project holds its id: then it never will be.

    Nearly always it is a repetition of our own, and a question that names the projects goes to their shards
    only. Who else may hold an id is asked everywhere.
    """
    projects = list({item.project_id for item in duplicates})
    keys = [item.key for item in duplicates]
    own = await _owners(collection, {"project_id": {"$in": projects}, "_id": {"$in": keys}})
    unclear = [item for item in duplicates if item.project_id not in own.get(item.key, ())]
    if not unclear:
        return {}
    owners = await _owners(collection, {"_id": {"$in": [item.key for item in unclear]}})
    message = f"{what}: another project has stored one with the same trace and span id"
    return {
        item.key: Refusal(span_ids=item.span_ids, reason=f"{what}_id_taken", message=message)
        for item in unclear
        if item.project_id not in owners.get(item.key, {item.project_id})
    }


async def _owners(collection: Collection, filters: Document) -> dict[bytes, set[object]]:
    """The projects that hold each id: one, but on a sharded cluster there may be more."""
    owners: dict[bytes, set[object]] = {}
    async for document in collection.find(filters, {"project_id": True}):
        owners.setdefault(document["_id"], set()).add(document["project_id"])
    return owners
