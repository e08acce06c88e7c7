"""The shape of rollup documents, and the one way in which they change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from otel_pyinstrument.call_tree import CallTree, Frame, HotFunction
from profile_store.mongodb.client import Collection, Document
from profile_store.mongodb.rollup_sources import ProfiledRequests
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

HOURS_KEPT = timedelta(days=400)
TREES_KEPT = timedelta(days=90)
VERSIONS_KEPT = timedelta(days=400)
_MINUTES_OUTLIVE_RECORDS = timedelta(days=1)

_STILL_COMPLETE = timedelta(hours=1)


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


def bucket_document(
    bucket: Bucket, *, sources_until: datetime | None, computed_at: datetime, expires_at: datetime
) -> Document:
    """A minute or hour, without what identifies it. `count` and `group_count` are for people."""
    return {
        "count": bucket.total.count,
        "group_count": len(bucket.groups),
        "total": pack_total(bucket),
        "groups": pack_groups(bucket),
        "sources_until": sources_until,
        "computed_at": computed_at,
        "expires_at": expires_at,
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


def expiry_of_minute(start: datetime, retention: timedelta) -> datetime:
    """A minute stays a little longer than its records: as long as they are there it can be computed anew."""
    return start + retention + _MINUTES_OUTLIVE_RECORDS


def expiry_of_hour(start: datetime, retention: timedelta) -> datetime:
    return max(start + HOURS_KEPT, expiry_of_minute(start, retention))


def expiry_of_trees(start: datetime, retention: timedelta) -> datetime:
    return max(start + TREES_KEPT, expiry_of_minute(start, retention))


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
