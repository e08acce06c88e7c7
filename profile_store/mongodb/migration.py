"""Brings documents of earlier versions into today's shape when a store is opened."""

from __future__ import annotations

from pymongo.errors import OperationFailure

from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database
from profile_store.mongodb.documents import key_document
from profile_store.mongodb.errors import unavailable_on_failure

_FORMER_KEY_INDEX = "project_key"
_INDEX_NOT_FOUND = 27
_NAMESPACE_NOT_FOUND = 26


async def migrate(database: Database) -> None:
    """Replace project keys in plain text by their hashes. Safe to call again, at once, and after a crash.

    Keys stay valid. What has its new shape is left alone, so only the first call has something to do.

    Raises:
        StoreUnavailable: MongoDB did not answer.
    """
    projects = database[indexes.PROJECTS]
    with unavailable_on_failure("hash the keys of projects"):
        former = projects.find(
            {"project_key": {"$type": "string"}}, {"project_key": True, "created_at": True}
        )
        documents = await former.to_list()
        if not documents:
            return
        try:
            # First of all: to a unique index, documents without the field are equal.
            await projects.drop_index(_FORMER_KEY_INDEX)
        except OperationFailure as error:
            if error.code not in (_INDEX_NOT_FOUND, _NAMESPACE_NOT_FOUND):
                raise
        for document in documents:
            secret: str = document["project_key"]
            await projects.update_one(
                {"_id": document["_id"], "project_key": secret},
                {
                    "$set": {"keys": [key_document(secret, created_at=document["created_at"])]},
                    "$unset": {"project_key": True},
                },
            )
