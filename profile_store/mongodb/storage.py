"""What everything takes: the database's own numbers per collection, and a sample of documents per project."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from bson import ObjectId
from pymongo.errors import OperationFailure

from profile_store.model import CollectionStorage, ProjectStorage, StorageReport
from profile_store.mongodb import indexes
from profile_store.mongodb.client import DatabaseUser, Document
from profile_store.mongodb.errors import unavailable_on_failure

SAMPLED_DOCUMENTS = 2_000
"""Documents that are read of each collection; the database reads them at random places."""

_NAMESPACE_NOT_FOUND = 26


class StorageStatistics(DatabaseUser):
    """Needs no permission beyond reading."""

    async def storage_report(self) -> StorageReport:
        """See `profile_store.contracts.Administration.storage_report`."""
        collections: list[CollectionStorage] = []
        shares: dict[tuple[ObjectId, str], tuple[float, float]] = {}
        with unavailable_on_failure("measure the storage"):
            for name in (indexes.PROJECTS, *indexes.PROJECT_DATA):
                collections.append(await self._collection_storage(name))
                if field := indexes.PROJECT_DATA.get(name):
                    for project, share in (await self._shares(name, field)).items():
                        shares[project, name] = share
            names = await self._project_names({project for project, _ in shares})
        storage_of = {storage.name: storage for storage in collections}
        projects = [
            _project_storage(names.get(project, str(project)), storage_of[collection], *share)
            for (project, collection), share in shares.items()
        ]
        projects.sort(key=lambda item: (-item.bytes_on_disk, item.project, item.collection))
        return StorageReport(
            collections=collections,
            projects=projects,
            is_sampled=any(storage_of[name].documents > SAMPLED_DOCUMENTS for name in indexes.PROJECT_DATA),
        )

    async def _collection_storage(self, name: str) -> CollectionStorage:
        totals: Counter[str] = Counter()
        index_bytes: Counter[str] = Counter()
        try:
            # One document per shard.
            cursor = await self._database[name].aggregate([{"$collStats": {"storageStats": {}}}])
            async for shard in cursor:
                statistics: dict[str, Any] = shard["storageStats"]
                for field in ("count", "size", "storageSize", "freeStorageSize"):
                    totals[field] += int(statistics.get(field, 0))
                index_bytes.update(cast("dict[str, int]", statistics.get("indexSizes", {})))
        except OperationFailure as error:
            if error.code != _NAMESPACE_NOT_FOUND:
                raise
        return CollectionStorage(
            name=name,
            documents=totals["count"],
            content_bytes=totals["size"],
            disk_bytes=totals["storageSize"],
            reusable_bytes=totals["freeStorageSize"],
            index_bytes=dict(index_bytes),
        )

    async def _shares(self, name: str, field: str) -> dict[ObjectId, tuple[float, float]]:
        """Of each project: its share of the collection's documents, and of their bytes."""
        group: Document = {
            "_id": f"${field}",
            "documents": {"$sum": 1},
            "bytes": {"$sum": {"$bsonSize": "$$ROOT"}},
        }
        cursor = await self._database[name].aggregate(
            [{"$sample": {"size": SAMPLED_DOCUMENTS}}, {"$group": group}], allowDiskUse=True
        )
        groups = await cursor.to_list()
        documents = sum(found["documents"] for found in groups)
        size = sum(found["bytes"] for found in groups)
        return {found["_id"]: (found["documents"] / documents, found["bytes"] / size) for found in groups}

    async def _project_names(self, projects: set[ObjectId]) -> dict[ObjectId, str]:
        cursor = self._database[indexes.PROJECTS].find({"_id": {"$in": list(projects)}}, {"name": True})
        return {document["_id"]: document["name"] async for document in cursor}


def _project_storage(
    project: str, storage: CollectionStorage, share_of_documents: float, share_of_bytes: float
) -> ProjectStorage:
    """Documents compress alike, and index entries are about equal in size."""
    return ProjectStorage(
        project=project,
        collection=storage.name,
        documents=round(storage.documents * share_of_documents),
        content_bytes=round(storage.content_bytes * share_of_bytes),
        bytes_on_disk=round(
            storage.used_bytes * share_of_bytes + sum(storage.index_bytes.values()) * share_of_documents
        ),
    )
