"""Deleting a project and changing a retention: short calls that leave a note, and steps that do the work.

A note in `project_chores` is written before the project is changed, so a crash in between leaves a chore that
finds nothing to do, never work without a chore. Each step asks the database what is still to be done and does
a part of it; there is no position to remember and none to lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from bson import ObjectId
from pymongo import ReturnDocument

from profile_store.contracts import UnknownProject
from profile_store.model import (
    DEFAULT_RETENTION_DAYS,
    MAX_RETENTION_DAYS,
    Project,
    Upkeep,
    retention_days,
)
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Collection, DatabaseUser, Document
from profile_store.mongodb.documents import project_from_document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.rollup_documents import KEPT_AT_LEAST, changed_expiry_fields

KEPT_IN_MIND = timedelta(minutes=15)
"""How long a chore stays after the change: far longer than any receiver remembers what was before."""

_BATCH_DOCUMENTS = 1_000
_MILLISECONDS_PER_DAY = 24 * 60 * 60 * 1_000

Task: TypeAlias = Literal["remove", "retain"]


@dataclass(slots=True)
class _Step:
    """How much of one step is left, and what it did."""

    documents_left: int
    removed: int = 0
    changed: int = 0


class ProjectUpkeep(DatabaseUser):
    """Every write is repeatable: deletions, and changes of what does not have its new value yet."""

    async def delete_project(self, project_id: str) -> bool:
        """See `profile_store.contracts.Administration.delete_project`."""
        if not ObjectId.is_valid(project_id):
            return False
        key = ObjectId(project_id)
        with unavailable_on_failure("delete a project"):
            if await self._database[indexes.PROJECTS].find_one({"_id": key}, {"_id": True}) is None:
                chores = self._database[indexes.PROJECT_CHORES]
                return await chores.find_one({"_id": _chore_id("remove", key)}) is not None
            await self._note("remove", key)
            await self._database[indexes.PROJECTS].delete_one({"_id": key})
        return True

    async def set_retention(self, project_id: str, days: int) -> Project:
        """See `profile_store.contracts.Administration.set_retention`."""
        if not 1 <= days <= MAX_RETENTION_DAYS:
            raise ValueError(f"retention is {days} days: use 1 to {MAX_RETENTION_DAYS}")
        if not ObjectId.is_valid(project_id):
            raise UnknownProject(f"no project has the id {project_id[:100]!r}")
        key, now = ObjectId(project_id), self._clock()
        with unavailable_on_failure("change the retention of a project"):
            await self._note("retain", key)
            document: Document | None = await self._database[indexes.PROJECTS].find_one_and_update(
                {"_id": key},
                {"$set": {"config.retention_days": days, "updated_at": now}},
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            raise UnknownProject(f"no project has the id {project_id}")
        return project_from_document(document, now)

    async def _note(self, task: Task, project: ObjectId) -> None:
        await self._database[indexes.PROJECT_CHORES].update_one(
            {"_id": _chore_id(task, project)},
            {"$set": {"task": task, "project_id": project, "since": self._clock()}},
            upsert=True,
        )

    async def upkeep(self, *, max_documents: int = 10_000) -> Upkeep:
        """See `profile_store.contracts.Administration.upkeep`."""
        step = _Step(max_documents)
        with unavailable_on_failure("tidy up"):
            # As many as projects were deleted or changed in the last minutes.
            for chore in await self._database[indexes.PROJECT_CHORES].find().to_list():
                if step.documents_left <= 0:
                    break
                if chore["task"] == "remove":
                    await self._remove(chore["project_id"], step)
                else:
                    await self._retain(chore["project_id"], step)
                if step.documents_left > 0:
                    await self._forget_if_old(chore)
        return Upkeep(
            removed_documents=step.removed,
            changed_documents=step.changed,
            is_finished=step.documents_left > 0,
        )

    async def _remove(self, project: ObjectId, step: _Step) -> None:
        # Again, because whoever noted the chore may have died before the project was gone.
        await self._database[indexes.PROJECTS].delete_one({"_id": project})
        for name, field in indexes.PROJECT_DATA.items():
            collection = self._database[name]
            while batch := await self._batch(collection, {field: project}, step):
                result = await collection.delete_many({"$and": [{"_id": {"$in": batch}}, {field: project}]})
                step.removed += result.deleted_count

    async def _retain(self, project: ObjectId, step: _Step) -> None:
        document = await self._database[indexes.PROJECTS].find_one(
            {"_id": project}, {"config.retention_days": True}
        )
        if document is None:
            return
        days = retention_days(document.get("config", {}))
        outdated = {"project_id": project, "retention_days": {"$ne": days}}
        # What an earlier version stored does not say its retention; nothing but the default was usual.
        more_days = {"$subtract": [days, {"$ifNull": ["$retention_days", DEFAULT_RETENTION_DAYS]}]}
        shifted = {"$add": ["$expires_at", {"$multiply": [more_days, _MILLISECONDS_PER_DAY]}]}
        changes = {name: {"expires_at": shifted, "retention_days": days} for name in indexes.RETAINED}
        # After what they are made of, whose dates they name.
        changes |= {name: changed_expiry_fields(name, days, self._clock()) for name in KEPT_AT_LEAST}
        for name, change in changes.items():
            collection = self._database[name]
            while batch := await self._batch(collection, outdated, step, hint=indexes.BY_RETENTION):
                result = await collection.update_many({"_id": {"$in": batch}, **outdated}, [{"$set": change}])
                step.changed += result.modified_count

    async def _batch(
        self, collection: Collection, filters: Document, step: _Step, *, hint: str | None = None
    ) -> list[object]:
        """Ids of documents that still match, as many as the step may touch; none when it has done enough."""
        if step.documents_left <= 0:
            return []
        limit = min(_BATCH_DOCUMENTS, step.documents_left)
        found = await collection.find(filters, {"_id": True}, limit=limit, hint=hint).to_list()
        step.documents_left -= len(found)
        return [document["_id"] for document in found]

    async def _forget_if_old(self, chore: Document) -> None:
        """Nothing was left to do; late writers are not to be expected any more either after some minutes."""
        since: datetime = chore["since"]
        if since + KEPT_IN_MIND <= self._clock():
            await self._database[indexes.PROJECT_CHORES].delete_one({"_id": chore["_id"], "since": since})


def _chore_id(task: Task, project: ObjectId) -> str:
    return f"{task} {project}"
