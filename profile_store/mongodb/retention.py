"""When a document may go: a date in `expires_at`, which the database's own TTL monitor enforces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from bson import ObjectId

from profile_store.model import DEFAULT_RETENTION_DAYS, retention_days
from profile_store.mongodb.client import Collection, Document

CLOCK_TOLERANCE = timedelta(minutes=15)
"""How far the clock of an application may be ahead of ours before we stop believing its timestamps."""

_REFRESH_AFTER = timedelta(minutes=1)
_MAX_REMEMBERED_PROJECTS = 10_000


def expiry(timestamp: datetime, arrival: datetime, days: int) -> Document:
    """The fields that say when an item of `timestamp` that came at `arrival` expires, and by which retention.

    Counts from the timestamp, so a replayed item lives no longer than one that came in time. A timestamp in
    the future or older than the retention comes from a wrong clock and counts as the arrival: otherwise the
    item would stay for years, or go within a minute although it was acknowledged.
    """
    retention = timedelta(days=days)
    believable = arrival - retention <= timestamp <= arrival + CLOCK_TOLERANCE
    return {
        "expires_at": (timestamp if believable else arrival) + retention,
        "retention_days": days,
    }


class RetentionOfProjects:
    """The retention of each project, read from `projects` at most once a minute and project."""

    def __init__(self, projects: Collection, clock: Callable[[], datetime]) -> None:
        self._projects = projects
        self._clock = clock
        self._known: dict[ObjectId, tuple[datetime, int]] = {}

    async def days(self, project_ids: Iterable[ObjectId]) -> Mapping[ObjectId, int]:
        """Days by project id. A project without the setting, or without a document, has the default."""
        now = self._clock()
        wanted = set(project_ids)
        days = {
            key: known[1] for key in wanted if (known := self._known.get(key)) is not None and now < known[0]
        }
        if missing := wanted - days.keys():
            found = dict.fromkeys(missing, DEFAULT_RETENTION_DAYS)
            async for document in self._projects.find(
                {"_id": {"$in": list(missing)}}, {"config.retention_days": True}
            ):
                found[document["_id"]] = retention_days(document.get("config", {}))
            if len(self._known) + len(found) > _MAX_REMEMBERED_PROJECTS:
                self._known.clear()
            self._known.update((key, (now + _REFRESH_AFTER, value)) for key, value in found.items())
            days.update(found)
        return days
