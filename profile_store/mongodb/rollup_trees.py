"""Merges the profiles of an hour into one call tree per group, as the groups of a bucket are."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from bson import ObjectId

from otel_pyinstrument.call_tree import merge
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, Document
from profile_store.mongodb.rollup_documents import (
    expiry_fields,
    may_be_computed,
    replace_if_unchanged,
    tree_document,
)
from profile_store.mongodb.rollup_marks import MarkKey
from profile_store.mongodb.rollup_sources import ProfiledRequests, RollupSources
from profile_store.rollups.bucket import MAX_GROUPS, GroupKey
from profile_store.rollups.trees import TreeMerger
from profile_store.rollups.windows import HOUR, Window

RUNNING_HOUR_EVERY = timedelta(minutes=10)
"""The trees of an hour that is not over are merged again at most this often."""

# Part of what a tree was made of: raise it when trees of the same profiles come out otherwise.
_FORMAT = 1

MAX_TREES_PER_HOUR = MAX_GROUPS

_MAX_REMEMBERED = 10_000


class TreeRoller:
    """One for each roller. Remembers when it merged which hour."""

    def __init__(self, database: Database, clock: Callable[[], datetime], sources: RollupSources) -> None:
        self._trees = database[indexes.ROLLUP_TREES]
        self._clock = clock
        self._sources = sources
        self._merged_at: dict[MarkKey, datetime] = {}

    def is_due(self, key: MarkKey) -> bool:
        """Whether the hour is over, or has not been merged for a while."""
        now = self._clock()
        return now >= key.start + HOUR or now - self.merged_at(key) >= RUNNING_HOUR_EVERY

    def merged_at(self, key: MarkKey) -> datetime:
        """When this roller last tried; long ago if it never did."""
        return self._merged_at.get(key, key.start - timedelta(days=36_500))

    async def roll(self, key: MarkKey, retention: timedelta | None) -> bool:
        """Merge the hour of a mark. True when the mark may be deleted: all is written, or all is gone.

        Pauses as long as it works, because call trees are decoded by the same Python that serves requests.

        Raises:
            PyMongoError: some trees may be written; the mark stays.
        """
        if len(self._merged_at) > _MAX_REMEMBERED:
            self._merged_at.clear()
        self._merged_at[key] = now = self._clock()
        if retention is None or key.start < now - retention:
            return True
        within: Document = {"project_id": key.project_id, "start": key.start}
        fields = dict.fromkeys((*GroupKey._fields, "revision", "fingerprint", "sources_until"), True)
        found = self._trees.find(within, fields)
        stored = {GroupKey(*(tree[name] for name in GroupKey._fields)): tree async for tree in found}
        if not all(may_be_computed(tree, now) for tree in stored.values()):
            return True
        groups = await self._sources.profiled(key.project_id, Window(key.start, key.start + HOUR), {})
        gone = {group: ProfiledRequests() for group in stored if group not in groups}
        groups = dict(islice(groups.items(), MAX_TREES_PER_HOUR))  # what others have stays as it was
        written = [
            await self._roll_group({**within, **group._asdict()}, requests, stored.get(group), retention)
            for group, requests in sorted((groups | gone).items())
        ]
        return all(written)

    async def _roll_group(
        self,
        identity: Document,
        requests: ProfiledRequests,
        stored: Mapping[str, Any] | None,
        retention: timedelta,
    ) -> bool:
        fingerprint = _fingerprint(requests)
        if stored is not None and stored["fingerprint"] == fingerprint:
            return True
        merger = await merged_slowly(self._sources, identity["project_id"], requests)
        tree = merger.tree() if merger else merge(())
        times: Document = {
            "computed_at": self._clock(),
            **expiry_fields(indexes.ROLLUP_TREES, identity["start"], requests.earliest_expiry, retention),
        }
        document = await asyncio.to_thread(tree_document, tree, merger, requests, fingerprint)
        revision = None if stored is None else stored["revision"]
        return await replace_if_unchanged(self._trees, identity, revision, document | times)


async def merged_slowly(
    sources: RollupSources, project_id: ObjectId, requests: ProfiledRequests
) -> TreeMerger | None:
    """Merge a sample with pauses as long as the work between them; None without profiles."""
    merger: TreeMerger | None = None
    began = time.monotonic()
    async for merger in sources.merged(project_id, requests):  # noqa: B007 - the last one is the answer
        await asyncio.sleep(time.monotonic() - began)
        began = time.monotonic()
    return merger


def _fingerprint(requests: ProfiledRequests) -> str:
    """Names the profiles that a tree is made of. A stored profile never changes."""
    digest = hashlib.blake2b(b"".join(requests.keys()), digest_size=16)
    return f"{_FORMAT}-{requests.seen}-{digest.hexdigest()}"
