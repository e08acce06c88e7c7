"""Numbers of a project over the last day, exact, from the records themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bson import ObjectId

from profile_store.model import ProjectStatistics
from profile_store.mongodb import indexes
from profile_store.mongodb.client import DatabaseUser, Document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.retention import CLOCK_TOLERANCE

_WINDOW = timedelta(hours=24)
_MAX_ENDPOINTS = 200

_NO_REQUESTS = ProjectStatistics(
    total_requests=0,
    avg_response_time=None,
    p95_response_time=None,
    error_rate=None,
    last_request_time=None,
)


class RecentStatistics(DatabaseUser):
    """Everything here is answered by one index, without reading a record."""

    async def project_statistics(self, project_id: str) -> ProjectStatistics:
        """See `profile_store.contracts.Reader.project_statistics`."""
        if not ObjectId.is_valid(project_id):
            return _NO_REQUESTS
        totals: Document = {
            "_id": None,
            "count": {"$sum": 1},
            "average": {"$avg": "$duration"},
            "failed": {"$sum": {"$cond": ["$failed", 1, 0]}},
            "last": {"$max": "$timestamp"},
        }
        with unavailable_on_failure("compute statistics"):
            groups = await self._aggregate_last_day(project_id, {"$group": totals})
            if not groups:
                return _NO_REQUESTS
            found = groups[0]
            # Nearest rank: the smallest duration that at least 95 percent do not exceed, found from above.
            above = found["count"] * 5 // 100
            slow = await self._aggregate_last_day(
                project_id,
                {"$sort": {"duration": -1}},
                {"$limit": above + 1},
                {"$group": {"_id": None, "p95": {"$min": "$duration"}}},
            )
        return ProjectStatistics(
            total_requests=found["count"],
            avg_response_time=found["average"] * 1_000,
            p95_response_time=slow[0]["p95"] * 1_000 if slow else None,
            error_rate=found["failed"] / found["count"],
            last_request_time=found["last"],
        )

    async def endpoints(self, project_id: str) -> Sequence[str]:
        """See `profile_store.contracts.Reader.endpoints`."""
        if not ObjectId.is_valid(project_id):
            return []
        with unavailable_on_failure("list endpoints"):
            groups = await self._aggregate_last_day(
                project_id,
                {"$group": {"_id": "$endpoint", "count": {"$sum": 1}}},
                {"$sort": {"count": -1, "_id": 1}},
                {"$limit": _MAX_ENDPOINTS},
            )
        return [group["_id"] for group in groups]

    async def _aggregate_last_day(self, project_id: str, *stages: Document) -> list[Document]:
        now = self._clock()
        window = {
            "project_id": ObjectId(project_id),
            "timestamp": {"$gte": now - _WINDOW, "$lte": now + CLOCK_TOLERANCE},
        }
        # Left alone, the planner sometimes prefers the order of another index to reading no record.
        cursor = await self._database[indexes.RECORDS].aggregate(
            [{"$match": window}, *stages], allowDiskUse=True, hint=indexes.RECENT
        )
        return await cursor.to_list()
