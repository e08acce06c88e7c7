"""The shape of rollup documents, and the one way in which they change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from otel_pyinstrument.call_tree import CallTree, Frame, HotFunction
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Collection, Document
from profile_store.mongodb.rollup_sources import Expiry, ProfiledRequests
from profile_store.rollups.bucket import (
    Bucket,
    GroupKey,
    pack_groups,
    pack_total,
    unpack_groups,
    unpack_total,
)
from profile_store.rollups.trees import TreeMerger, hottest, pack_tree

_logger = logging.getLogger(__name__)

VERSIONS_KEPT = timedelta(days=400)

KEPT_AT_LEAST: Mapping[str, timedelta] = {
    indexes.ROLLUP_HOURS: timedelta(days=400),
    indexes.ROLLUP_TREES: timedelta(days=90),
    indexes.ROLLUP_MINUTES: timedelta(0),
}
"""How long rollups stay after their start, by collection; longer when the project's retention is.

Minutes stand last: with a shortened retention, hours know that their minutes go before these do.
"""

# As long as the records are there a minute can be computed anew.
_ROLLUPS_OUTLIVE_RECORDS = timedelta(days=1)

_STILL_COMPLETE = timedelta(hours=1)

_MILLISECOND = timedelta(milliseconds=1)
_HOUR_MILLISECONDS = 60 * 60 * 1_000
_DAY_MILLISECONDS = 24 * _HOUR_MILLISECONDS


async def replace_if_unchanged(
    collection: Collection, key: Document, revision: ObjectId | None, document: Document
) -> bool:
    """Write a document unless another roller has written it since `revision` was read; None: it was missing.

    The whole document at once, so whoever reads sees the old or the new one. False when the other one won:
    what we computed may be older than what it did.
    """
    fresh = {**key, **document, "revision": ObjectId()}
    if revision is not None:
        result = await collection.replace_one({**key, "revision": revision}, fresh)
        return result.matched_count == 1
    try:
        await collection.insert_one(fresh)
    except DuplicateKeyError:
        return False
    return True


def may_be_computed(stored: Mapping[str, Any] | None, now: datetime) -> bool:
    """Whether all that a stored rollup was made of is still there: else computing it anew would lose some."""
    until = None if stored is None else stored.get("sources_until")
    return until is None or now + _STILL_COMPLETE < until


def bucket_document(bucket: Bucket) -> Document:
    """A minute or hour, without what identifies it and its times. `group_count` is for people."""
    return {
        "count": bucket.total.count,
        "group_count": len(bucket.groups),
        "total": pack_total(bucket),
        "groups": pack_groups(bucket),
    }


def readable_buckets(
    documents: Iterable[Mapping[str, Any]], keep: Callable[[GroupKey], bool] = lambda _: True
) -> Iterator[Bucket]:
    """The buckets, with those groups that `keep` accepts. Damaged ones are logged and skipped."""
    for document in documents:
        try:
            groups = unpack_groups(document["groups"], keep) if "groups" in document else {}
            yield Bucket(unpack_total(document["total"]), groups)
        except ValueError as error:
            _logger.warning("rollup %s of %s: %s", document.get("start"), document.get("project_id"), error)


def expiry_fields(collection: str, start: datetime, sources: Expiry | None, retention: timedelta) -> Document:
    """When the sources of a rollup begin to go, and when itself goes.

    By the retention that its sources have, which may just be changing; `retention` counts without sources.
    """
    days = sources.retention_days if sources else retention.days
    return {
        "sources_until": sources.until if sources else None,
        "retention_days": days,
        "expires_at": start + _lifetime(collection, days),
    }


def changed_expiry_fields(collection: str, days: int, now: datetime) -> Document:
    """The same of stored rollups after a change of retention to `days`, as `$set` of an update pipeline.

    Sources that were due to go before `now` may have gone and do not come back: their date stays.
    """
    # An earlier version stored no retention. Requests of a minute or hour start within an hour, at most a day
    # before it where a clock was wrong, so the date itself tells it.
    after_hour = {"$subtract": ["$sources_until", {"$add": ["$start", _HOUR_MILLISECONDS]}]}
    days_before = {"$ifNull": ["$retention_days", {"$ceil": {"$divide": [after_hour, _DAY_MILLISECONDS]}}]}
    more = {"$multiply": [{"$subtract": [days, days_before]}, _DAY_MILLISECONDS]}
    return {
        "sources_until": {
            "$cond": [
                {"$gt": ["$sources_until", now]},
                {"$add": ["$sources_until", more]},
                "$sources_until",
            ]
        },
        "retention_days": days,
        "expires_at": {"$add": ["$start", _lifetime(collection, days) // _MILLISECOND]},
    }


def _lifetime(collection: str, retention_days: int) -> timedelta:
    return max(KEPT_AT_LEAST[collection], timedelta(days=retention_days) + _ROLLUPS_OUTLIVE_RECORDS)


def tree_document(
    tree: CallTree, merger: TreeMerger | None, requests: ProfiledRequests, fingerprint: str
) -> Document:
    """A merged tree, without what identifies it and without its times."""
    return {
        "profiles": merger.profiles if merger else 0,
        "profiles_seen": requests.seen,
        "unusable": merger.unusable if merger else 0,
        "payload": pack_tree(tree),
        "hot_functions": [_hot_function_document(function) for function in hottest(tree)],
        "fingerprint": fingerprint,
    }


def _hot_function_document(function: HotFunction) -> Document:
    return {
        "function": function.frame.function,
        "file": function.frame.file,
        "line": function.frame.line,
        "own_code": function.frame.own_code,
        "self_us": function.self_us,
        "total_us": function.total_us,
        "samples": function.samples,
    }


def hot_functions_from_document(document: Mapping[str, Any]) -> list[HotFunction]:
    """The hot functions of a merged tree, heaviest first."""
    return [
        HotFunction(
            Frame(item["function"], item["file"], item["line"], item["own_code"]),
            item["self_us"],
            item["total_us"],
            item["samples"],
        )
        for item in document["hot_functions"]
    ]
