"""The indexes. Each one serves a query named in docs/adr/001-storage-schema.md."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import OperationFailure

from profile_store.contracts import StoreError
from profile_store.mongodb.client import Database
from profile_store.mongodb.errors import unavailable_on_failure

PROJECTS = "projects"
RECORDS = "performance_records"
PROFILES = "profiles"
CHILD_SPANS = "child_spans"
NAME_LISTS = "name_lists"
PROJECT_CHORES = "project_chores"
ROLLUP_MARKS = "rollup_marks"
ROLLUP_MINUTES = "rollup_minutes"
ROLLUP_HOURS = "rollup_hours"
ROLLUP_TREES = "rollup_trees"
ROLLUP_VERSIONS = "rollup_versions"

ROLLUPS = (ROLLUP_MARKS, ROLLUP_MINUTES, ROLLUP_HOURS, ROLLUP_TREES, ROLLUP_VERSIONS)
"""Computed from records."""

RETAINED = (RECORDS, PROFILES, CHILD_SPANS)
"""What a project's retention decides about: documents with `project_id`, `expires_at`, `retention_days`."""

PROJECT_DATA: Mapping[str, str] = {
    **dict.fromkeys(RETAINED, "project_id"),
    **dict.fromkeys(ROLLUPS, "project_id"),
    NAME_LISTS: "_id",
}
"""What goes with its project: collections, and the field that names the project, the first of an index."""

BY_RETENTION = "retention"
"""The index that finds what a deletion or a change of retention has still to do."""

RECENT = "recent"
"""The index of the newest records, which also holds what statistics read."""

PROFILED = "profiled"
"""The newest records that have a profile."""

_NEWEST_FIRST = [("timestamp", DESCENDING), ("_id", DESCENDING)]
_EXPIRY = IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0)
_RETENTION = IndexModel([("project_id", ASCENDING), ("retention_days", ASCENDING)], name=BY_RETENTION)

_INDEXES: Mapping[str, Sequence[IndexModel]] = {
    PROJECTS: [
        IndexModel([("name", ASCENDING)], name="name", unique=True),
        IndexModel(
            [("keys.hash", ASCENDING)],
            name="key_hash",
            unique=True,
            # Projects without a key are not alike in that.
            partialFilterExpression={"keys.hash": {"$exists": True}},
        ),
    ],
    RECORDS: [
        # Behind the order of the list stand the fields that statistics read, so those never touch a document.
        IndexModel(
            [
                ("project_id", ASCENDING),
                *_NEWEST_FIRST,
                ("duration", ASCENDING),
                ("failed", ASCENDING),
                ("endpoint", ASCENDING),
            ],
            name=RECENT,
        ),
        IndexModel(
            [("project_id", ASCENDING), ("duration", DESCENDING), ("_id", DESCENDING)],
            name="slowest",
        ),
        IndexModel([("project_id", ASCENDING), ("endpoint", ASCENDING), *_NEWEST_FIRST], name="endpoint"),
        IndexModel([("project_id", ASCENDING), ("version", ASCENDING), *_NEWEST_FIRST], name="version"),
        # Without an index a rare value of these two would read the whole project.
        IndexModel(
            [("project_id", ASCENDING), ("environment", ASCENDING), *_NEWEST_FIRST], name="environment"
        ),
        IndexModel([("project_id", ASCENDING), ("method", ASCENDING), *_NEWEST_FIRST], name="method"),
        IndexModel(
            [("project_id", ASCENDING), *_NEWEST_FIRST],
            name=PROFILED,
            partialFilterExpression={"has_profile": True},
        ),
        IndexModel(
            [("project_id", ASCENDING), *_NEWEST_FIRST],
            name="failed",
            partialFilterExpression={"failed": True},
        ),
        IndexModel(
            [("project_id", ASCENDING), ("status_code", ASCENDING), *_NEWEST_FIRST],
            name="unusual_status",
            partialFilterExpression={"status_code": {"$gt": 200}},
        ),
        _EXPIRY,
        _RETENTION,
    ],
    PROFILES: [_EXPIRY, _RETENTION],
    CHILD_SPANS: [_EXPIRY, _RETENTION],
    # Rollups: docs/adr/005-rollups.md. Uniqueness decides when two processes make the same bucket.
    ROLLUP_MARKS: [
        IndexModel(
            [("project_id", ASCENDING), ("kind", ASCENDING), ("start", DESCENDING)], name="mark", unique=True
        )
    ],
    ROLLUP_MINUTES: [
        IndexModel([("project_id", ASCENDING), ("start", ASCENDING)], name="bucket", unique=True),
        _EXPIRY,
        _RETENTION,
    ],
    ROLLUP_HOURS: [
        IndexModel([("project_id", ASCENDING), ("start", ASCENDING)], name="bucket", unique=True),
        _EXPIRY,
        _RETENTION,
    ],
    ROLLUP_TREES: [
        IndexModel(
            [
                ("project_id", ASCENDING),
                ("start", ASCENDING),
                ("endpoint", ASCENDING),
                ("version", ASCENDING),
                ("environment", ASCENDING),
                ("method", ASCENDING),
            ],
            name="bucket",
            unique=True,
        ),
        _EXPIRY,
        _RETENTION,
    ],
    ROLLUP_VERSIONS: [
        IndexModel([("project_id", ASCENDING), ("version", ASCENDING)], name="version", unique=True),
        IndexModel([("project_id", ASCENDING), ("last_seen", DESCENDING)], name="last_seen"),
        _EXPIRY,
    ],
}

# IndexOptionsConflict, IndexKeySpecsConflict: an index of this name or these keys exists with other options.
_CONFLICT_CODES = {85, 86}

# MongoDB aborts a build that takes longer, and the next start begins it anew. Without a limit of its own, or
# with None, it would have the few seconds of the client.
_BUILD_LIMIT_SECONDS = 3_600.0
_TELL_AFTER_SECONDS = 5.0

_logger = logging.getLogger(__name__)


async def ensure_indexes(database: Database) -> None:
    """Create what is missing. Safe to call again, and from several processes at once.

    On a large collection a new index takes minutes; the log says so.

    Raises:
        StoreError: an existing index differs; the message names the collection.
        StoreUnavailable: MongoDB did not answer, or needs more than an hour for a collection.
    """
    for name, indexes in _INDEXES.items():
        with (
            unavailable_on_failure(f"create the indexes of {name}"),
            pymongo.timeout(_BUILD_LIMIT_SECONDS),
            _told_when_long(f"{database.name}.{name}"),
        ):
            try:
                await database[name].create_indexes(list(indexes))
            except OperationFailure as error:
                if error.code in _CONFLICT_CODES:
                    needed = ", ".join(index.document["name"] for index in indexes)
                    raise StoreError(
                        f"An index of the collection {database.name}.{name} exists with other options "
                        f"than this version needs ({needed}). "
                        "Drop it, or set MONGODB_DATABASE to a database of its own."
                    ) from None
                raise


@contextmanager
def _told_when_long(collection: str) -> Generator[None]:
    telling = asyncio.get_running_loop().call_later(
        _TELL_AFTER_SECONDS, _logger.warning, "MongoDB is building indexes of %s; wait for it", collection
    )
    try:
        yield
    finally:
        telling.cancel()
