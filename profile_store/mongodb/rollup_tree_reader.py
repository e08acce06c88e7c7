"""Call trees of windows: stored hours, completed from the newest profiles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pymongo
from bson import ObjectId
from pymongo import ASCENDING
from pymongo.errors import PyMongoError

from otel_pyinstrument.call_tree import HotFunction, InvalidPayload
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, DatabaseUser, Document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.rollup_documents import hot_functions_from_document
from profile_store.mongodb.rollup_marks import MINUTES, TREES
from profile_store.mongodb.rollup_reader import MAX_WINDOW, in_lots, wanted_names, window_of
from profile_store.mongodb.rollup_sources import RollupSources
from profile_store.mongodb.rollup_trees import merged_slowly
from profile_store.rollups.answers import MergedCallTree, MergedHotFunctions, RequestFilter
from profile_store.rollups.trees import TreeMerger, hottest, sum_hot_functions, unpack_tree
from profile_store.rollups.windows import HOUR, Window, ceil_to, floor_to

MAX_LIVE_HOURS = 5
MAX_LIVE_PROFILES = 200
"""So many profiles of an hour are merged while somebody waits for the answer."""

_LIVE_SECONDS = 2.0
_MAX_WAITING = 5_000
_TREES_AT_ONCE = 10


class CallTreeReader(DatabaseUser):
    """Every query names the project and a range of hours."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        super().__init__(database, clock)
        self._profile_sources = RollupSources(database)

    async def merged_call_tree(self, requests: RequestFilter) -> MergedCallTree | None:
        """See `profile_store.contracts.Reader.merged_call_tree`."""
        if requests.endpoint is None:
            raise ValueError("endpoint is missing: call trees are merged per endpoint")
        window = _whole_hours(requests)
        if not _can_match(requests):
            return None
        with unavailable_on_failure("merge call trees"):
            incomplete = await self._incomplete_hours(ObjectId(requests.project_id), window)
            live = {hour: await self._live_tree(requests, hour) for hour in incomplete[:MAX_LIVE_HOURS]}
            merged_now = {hour: merger for hour, merger in live.items() if merger is not None}
            whole = _Sum()
            for merger in merged_now.values():
                whole.add_live(merger)
            fields = ("start", "payload", "hot_functions", "profiles", "profiles_seen")
            stored = self._stored(requests, window, dict.fromkeys(fields, True))
            async for documents in in_lots(stored, _TREES_AT_ONCE):
                kept = [document for document in documents if document["start"] not in merged_now]
                await asyncio.to_thread(whole.add_stored, kept)
        if not whole.merger.profiles:
            return None
        return MergedCallTree(
            tree=await asyncio.to_thread(whole.merger.tree),
            profiles=whole.merger.profiles,
            profiles_seen=whole.seen,
            hot_functions=sum_hot_functions(whole.hot),
            start=window.start,
            end=window.end,
            behind=len(merged_now) < len(incomplete),
        )

    async def hot_functions(self, requests: RequestFilter) -> MergedHotFunctions:
        """See `profile_store.contracts.Reader.hot_functions`."""
        window = _whole_hours(requests)
        if not _can_match(requests):
            return MergedHotFunctions(by_endpoint={}, start=window.start, end=window.end)
        found: dict[str, list[list[HotFunction]]] = {}
        with unavailable_on_failure("read hot functions"):
            stored = self._stored(requests, window, {"endpoint": True, "hot_functions": True})
            async for document in stored:
                functions = hot_functions_from_document(document)
                found.setdefault(document["endpoint"], []).append(functions)
        return MergedHotFunctions(
            by_endpoint={endpoint: sum_hot_functions(lists) for endpoint, lists in found.items()},
            start=window.start,
            end=window.end,
        )

    async def _incomplete_hours(self, project: ObjectId, window: Window) -> list[datetime]:
        """Hours whose trees may lack profiles, the newest first: they or one of their minutes have a mark."""
        hours: set[datetime] = set()
        for kind in (MINUTES, TREES):
            marks = self._database[indexes.ROLLUP_MARKS].find(
                {
                    "project_id": project,
                    "kind": kind,
                    "start": {"$gte": window.start, "$lt": window.end},
                },
                {"start": True, "_id": False},
                limit=_MAX_WAITING,
            )
            hours |= {floor_to(mark["start"], HOUR) async for mark in marks}
        return sorted(hours, reverse=True)

    async def _live_tree(self, requests: RequestFilter, hour: datetime) -> TreeMerger | None:
        """The profiles of an hour, merged now; None when there are too many for that."""
        project = ObjectId(requests.project_id)
        try:
            with pymongo.timeout(_LIVE_SECONDS):
                groups = await self._profile_sources.profiled(
                    project,
                    Window(hour, hour + HOUR),
                    wanted_names(requests),
                    limit=MAX_LIVE_PROFILES + 1,
                )
                if sum(group.seen for group in groups.values()) > MAX_LIVE_PROFILES:
                    return None
                whole = TreeMerger()
                for _, group in sorted(groups.items()):
                    merger = await merged_slowly(self._profile_sources, project, group)
                    if merger is not None and merger.profiles:
                        whole.add(merger.tree(), merger.profiles)
                return whole
        except PyMongoError as error:
            if error.timeout:
                return None
            raise

    def _stored(self, requests: RequestFilter, window: Window, fields: Document) -> Any:
        filters: Document = {
            "project_id": ObjectId(requests.project_id),
            "start": {"$gte": window.start, "$lt": window.end},
            "profiles": {"$gt": 0},
            **wanted_names(requests),
        }
        return self._database[indexes.ROLLUP_TREES].find(filters, fields).sort("start", ASCENDING)


class _Sum:
    """Merged hours, merged."""

    def __init__(self) -> None:
        self.merger = TreeMerger()
        self.seen = 0
        self.hot: list[Sequence[HotFunction]] = []

    def add_live(self, merger: TreeMerger) -> None:
        self.seen += merger.profiles + merger.unusable
        if merger.profiles:
            self.merger.add(merger.tree(), merger.profiles)
            self.hot.append(hottest(merger.tree()))

    def add_stored(self, documents: Sequence[Document]) -> None:
        for document in documents:
            self.seen += document["profiles_seen"]
            self.hot.append(hot_functions_from_document(document))
            try:
                self.merger.add(unpack_tree(document["payload"]), document["profiles"])
            except InvalidPayload:
                self.merger.unusable += document["profiles"]


def _can_match(requests: RequestFilter) -> bool:
    """Whether the question can be asked at all: lone surrogates, for example, are in no document."""
    try:
        "".join(wanted_names(requests).values()).encode()
    except UnicodeEncodeError:
        return False
    return ObjectId.is_valid(requests.project_id)


def _whole_hours(requests: RequestFilter) -> Window:
    """The hours that a window touches: trees of less are not kept."""
    window = window_of(requests, MAX_WINDOW)
    return Window(floor_to(window.start, HOUR), ceil_to(window.end, HOUR))
