"""Numbers of a project over the last day, from rollups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bson import ObjectId

from profile_store.model import ProjectStatistics
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.retention import CLOCK_TOLERANCE
from profile_store.mongodb.rollup_reader import RollupReader
from profile_store.rollups.answers import RequestFilter
from profile_store.rollups.bucket import OTHER

EXACT_UP_TO = 10_000
"""With more requests in the window, the 95th percentile comes from the histogram."""

_WINDOW = timedelta(hours=24)
_MAX_ENDPOINTS = 200

_NO_REQUESTS = ProjectStatistics(
    total_requests=0,
    avg_response_time=None,
    p95_response_time=None,
    error_rate=None,
    last_request_time=None,
)


class RecentStatistics(RollupReader):
    """What project list and filters show."""

    async def project_statistics(self, project_id: str) -> ProjectStatistics:
        """See `profile_store.contracts.Reader.project_statistics`."""
        last_day = self._last_day(project_id)
        overall = (await self.statistics(last_day)).overall
        average_us, p95_us = overall.average_us, overall.quantile_us(0.95)
        if average_us is None or p95_us is None:
            return _NO_REQUESTS
        p95 = p95_us / 1_000
        if overall.count <= EXACT_UP_TO:
            exact = await self._exact_p95(last_day, overall.count)
            p95 = p95 if exact is None else exact
        return ProjectStatistics(
            total_requests=overall.count,
            avg_response_time=average_us / 1_000,
            p95_response_time=p95,
            error_rate=overall.error_rate,
            last_request_time=datetime.fromtimestamp(overall.last_ms / 1_000, UTC),
        )

    async def endpoints(self, project_id: str) -> Sequence[str]:
        """See `profile_store.contracts.Reader.endpoints`."""
        groups = (await self.statistics(self._last_day(project_id), group_by="endpoint")).groups
        ranked = sorted((-measures.count, endpoint) for endpoint, measures in groups.items())
        return [endpoint for _, endpoint in ranked if endpoint != OTHER.endpoint][:_MAX_ENDPOINTS]

    def _last_day(self, project_id: str) -> RequestFilter:
        now = self._clock()
        return RequestFilter(project_id=project_id, start=now - _WINDOW, end=now + CLOCK_TOLERANCE)

    async def _exact_p95(self, requests: RequestFilter, count: int) -> float | None:
        """Nearest rank: the smallest duration that at least 95 percent do not exceed, found from above."""
        window: Document = {
            "project_id": ObjectId(requests.project_id),
            "timestamp": {"$gte": requests.start, "$lt": requests.end},
        }
        stages = [
            {"$match": window},
            {"$sort": {"duration": -1}},
            {"$limit": count * 5 // 100 + 1},
            {"$group": {"_id": None, "p95": {"$min": "$duration"}}},
        ]
        with unavailable_on_failure("compute statistics"):
            # Left alone, the planner sometimes prefers the order of another index to reading no record.
            cursor = await self._database[indexes.RECORDS].aggregate(stages, hint=indexes.RECENT)
            found = await cursor.to_list()
        return found[0]["p95"] * 1_000 if found else None
