"""The names of each project, agreed on by all processes that write (docs/adr/004-few-names.md).

One document per project holds its list and a revision; who changes the list replaces the revision that it has
read. So all processes see one order of changes, and the rules themselves stay out of the database. Nothing is
read or written for names that are known here, nor for names that have no seat.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from profile_store.contracts import StoreUnavailable
from profile_store.model import IncomingBatch, IncomingRecord
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, Document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.name_list import SEATS, NameList, Naming, Seat, Seats, Wanted

RELOAD_AFTER = timedelta(minutes=1)
"""Another process may free seats, once a day; until then a refused name costs no query."""

FLUSH_AFTER = timedelta(minutes=10)
"""How long the use of known names is only noted in memory."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_ATTEMPTS = 20
_MAX_REMEMBERED_NAMES = 200_000
_MAX_SETTLED = 2_000


class _Known:
    """What this process knows of one project."""

    def __init__(self, project_id: ObjectId) -> None:
        self.project_id = project_id
        self.names = NameList()
        self.revision = -1
        self.reload_at = _NEVER
        self.flush_at = _NEVER
        self.day = 0
        self.settled: set[Naming] = set()
        """Names that were found to have seats today."""
        self.used: set[Wanted] = set()
        """Names whose use the database has not been told yet."""
        self.lock = asyncio.Lock()


class NameLists:
    """Gives records the names under which they are counted. Belongs to the loop of the store."""

    def __init__(self, database: Database) -> None:
        self._collection = database[indexes.NAME_LISTS]
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def bounded(self, batch: IncomingBatch, now: datetime) -> IncomingBatch:
        """`batch` with endpoint, version and environment of every record among those of its project.

        Raises:
            StoreUnavailable: a new name could not be agreed on.
        """
        day = now.toordinal()
        unsettled: defaultdict[str, dict[int, Wanted]] = defaultdict(dict)
        for index, item in enumerate(batch.records):
            record = item.record
            known = self._known.get(record.project_id)
            naming = Naming(record.endpoint, record.version, record.environment)
            if known is None or known.day != day or naming not in known.settled:
                unsettled[record.project_id][index] = Wanted(*naming, record.method, item.endpoint_origin)
        if not unsettled:
            return batch
        items = list(batch.records)
        for project_id, wanted in unsettled.items():
            if not ObjectId.is_valid(project_id):
                continue  # such a record is refused by itself
            names = await self._settle(self._of(project_id), list(dict.fromkeys(wanted.values())), now)
            for index, one in wanted.items():
                items[index] = _renamed(items[index], names.naming(one))
        return replace(batch, records=items)

    def _of(self, project_id: str) -> _Known:
        known = self._known.get(project_id)
        if known is None:
            known = self._known[project_id] = _Known(ObjectId(project_id))
            remembered = sum(len(other.names) for other in self._known.values())
            while remembered > _MAX_REMEMBERED_NAMES and len(self._known) > 1:
                remembered -= len(self._known.popitem(last=False)[1].names)
        self._known.move_to_end(project_id)
        return known

    async def _settle(self, known: _Known, wanted: list[Wanted], now: datetime) -> NameList:
        """The project's list when every name of `wanted` has got its seat, or is known to get none."""
        async with known.lock:
            if known.day != now.toordinal() or len(known.settled) > _MAX_SETTLED:
                known.day = now.toordinal()
                known.settled.clear()
            with unavailable_on_failure("agree on names"):
                await self._seat(known, wanted, now)
            seated = {one for one in wanted if known.names.holds(one)}
            known.settled.update(Naming(*one[:3]) for one in seated)
            return known.names

    async def _seat(self, known: _Known, wanted: list[Wanted], now: datetime) -> None:
        missing = _without_seats(known, wanted)
        if missing and now >= known.reload_at:
            await self._load(known, now)
            missing = _without_seats(known, wanted)
        known.used.update(set(wanted).difference(missing))
        flush = now >= known.flush_at or len(known.used) > _MAX_SETTLED
        asked = [*known.used, *missing] if flush else missing
        for _ in range(_ATTEMPTS):
            updated = known.names.seat(asked, now.toordinal()) if asked else known.names
            if updated is known.names or await self._replace(known, updated):
                if flush:
                    known.used.clear()
                    known.flush_at = now + FLUSH_AFTER
                return
            await self._load(known, now)
        raise StoreUnavailable("other processes change the names of a project all the time")

    async def _load(self, known: _Known, now: datetime) -> None:
        document = await self._collection.find_one({"_id": known.project_id})
        known.names, known.revision = _from_document(document) if document else (NameList(), 0)
        known.reload_at = now + RELOAD_AFTER

    async def _replace(self, known: _Known, names: NameList) -> bool:
        """Whether nobody else has changed the list since it was read."""
        revision = max(0, known.revision)
        document = _to_document(known.project_id, revision + 1, names)
        try:
            result = await self._collection.replace_one(
                {"_id": known.project_id, "revision": revision}, document, upsert=revision == 0
            )
        except DuplicateKeyError:
            return False
        if not result.matched_count and result.upserted_id is None:
            return False
        known.names, known.revision = names, revision + 1
        return True


def _without_seats(known: _Known, wanted: list[Wanted]) -> list[Wanted]:
    return [one for one in wanted if not known.names.holds(one)]


def _renamed(item: IncomingRecord, naming: Naming) -> IncomingRecord:
    record = item.record
    if naming == (record.endpoint, record.version, record.environment):
        return item
    return replace(item, record=replace(record, **naming._asdict()))


def _to_document(project_id: ObjectId, revision: int, names: NameList) -> Document:
    """Names are values and never keys: a name may hold dots, dollars and NUL."""
    seats = {family: _rows(of_family.items()) for family, of_family in names.seats.items()}
    return {"_id": project_id, "project_id": project_id, "revision": revision, "day": names.day, **seats}


def _rows(seats: Iterable[tuple[str, Seat]]) -> list[list[Any]]:
    return [[name, *seat] for name, seat in seats]


def _from_document(document: Document) -> tuple[NameList, int]:
    seats: Seats = {
        family: {
            cast("str", name): Seat(first_day, last_day)
            for name, first_day, last_day in document.get(family, ())
        }
        for family in SEATS
    }
    return NameList(seats, document["day"]), document["revision"]
