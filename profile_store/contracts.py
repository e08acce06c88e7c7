"""The store's contract: what the receiver may rely on when it writes, and API and web when they read.

One suite (tests/contracts) runs every sentence below against a real MongoDB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from otel_pyinstrument.call_tree import CallTree
from profile_store.model import (
    IncomingBatch,
    IssuedKey,
    Page,
    Project,
    ProjectStatistics,
    Record,
    RecordDetail,
    RecordQuery,
    StorageReport,
    Upkeep,
)
from profile_store.rollups.answers import (
    GroupBy,
    MergedCallTree,
    MergedHotFunctions,
    RequestFilter,
    RollUpStep,
    SeenVersion,
    Series,
    Statistics,
)

DEFAULT_KEY_OVERLAP = timedelta(hours=24)
MAX_KEY_OVERLAP = timedelta(days=365)


class StoreError(Exception):
    """Anything the store raises on purpose. The message is safe to log; it holds no document."""


class InvalidStoreSettings(StoreError):
    """The settings name no database, or not in a way that can be used: waiting for it does not help."""


class StoreUnavailable(StoreError):
    """Network, election, time-out, full disk: nothing is known about what was written. Try the call again."""


class UnknownStoreError(StoreUnavailable):
    """The database answered with an error of a kind that we do not know: one item may be its cause."""


class ProjectExists(StoreError):
    """Another project already has this name."""


class InvalidProject(StoreError):
    """A project cannot have this name, description, framework, base_url or config; the message says why."""


class UnknownProject(StoreError):
    """No project has this id."""


class ProjectLimitReached(StoreError):
    """There are as many projects as may come into being by themselves; those that exist are not affected."""


class TooManyKeys(StoreError):
    """The project has as many valid keys as it may have; revoke one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One item that can never be stored. `span_ids` are lost with it; `reason` is a snake_case name.

    A refused call tree loses no span: its record is stored without a profile, and `span_ids` is empty.
    """

    span_ids: Sequence[bytes]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedProfile:
    """A record that has its profile only now: one of the two came in an earlier batch than the other."""

    project_id: str
    record_id: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """What became of a batch. `new_records` and `new_profiles` count what was not there before."""

    new_records: int
    new_profiles: int
    refusals: Sequence[Refusal]
    joined: Sequence[JoinedProfile] = ()


class Writer(Protocol):
    """Used by the receiver. Every method belongs to the event loop that opened the store."""

    async def write(self, batch: IncomingBatch) -> WriteResult:
        """Store a batch.

        Returns only after a majority has everything in its journal, except what `refusals` name. Profiles are
        durable before the records that refer to them, so a visible record has its call tree. Writing the same
        items again, in any grouping, is a success and changes nothing that is read: child spans in another
        grouping are stored once more and read once. One item that the database cannot hold is refused alone,
        the others are stored. An empty batch returns without touching the database.

        Endpoints, versions and environments of a project are few, whatever its senders make up: beyond the
        limits of `profile_store.name_list` a new one is stored under a collective name. A name that is used
        keeps its place, and all processes agree on who has one.

        An item of `profiles` and the record of its span find each other whichever comes first, also when both
        are written at the same time. Until then, and for ever when the span never comes, nothing of it can be
        read; it expires like everything else. A record that has a profile keeps it. Refusing such an item
        names its span in `span_ids`.

        Raises:
            StoreUnavailable: some of the batch may be stored; the whole batch may be written again.
        """
        ...

    async def project_for_service(self, service_name: str, *, max_projects: int | None = None) -> Project:
        """The project named after `service.name`, made when missing; concurrent calls agree on one project.

        Any text is accepted: control characters are replaced, long names are cut, and an empty name is
        `unknown_service`. A project that comes into being in this way has no key.

        Raises:
            ProjectLimitReached: it would have to be made, and there are `max_projects` or more. Each
                process that makes one at the same moment may exceed the limit by one.
            StoreUnavailable: as above.
        """
        ...

    async def projects_for_services(self, service_names: Collection[str]) -> Mapping[str, Project]:
        """The existing projects of these names, by name as given, with one query; see above.

        Whatever their status: a service finds its project, only keys of an inactive one are refused.

        Raises:
            StoreUnavailable: as above.
        """
        ...

    async def projects_for_keys(self, project_keys: Collection[str]) -> Mapping[str, Project]:
        """The active projects that these keys may write to now, by key, with one query.

        What is no valid key is absent.

        Raises:
            StoreUnavailable: as above.
        """
        ...

    async def create_project(
        self, name: str, *, description: str = "", framework: str = "other", base_url: str = ""
    ) -> Project:
        """A new project with a fresh key, which stands in `project_key` of this answer and nowhere else.

        White space around the name does not count.

        Raises:
            InvalidProject: the name is empty, longer than 200 characters or has control characters; or
                another value is out of bounds.
            ProjectExists: the name is taken.
            StoreUnavailable: as above.
        """
        ...


class Reader(Protocol):
    """Used by API and web. Reads see what a majority acknowledged.

    All methods raise StoreUnavailable when the database is away.
    """

    async def projects(
        self, *, page: int = 1, page_size: int = 20, status: str | None = None
    ) -> Page[Project]:
        """Projects by name; an empty page is a normal answer."""
        ...

    async def project(self, reference: str) -> Project | None:
        """The project whose id, or one of whose valid keys, is `reference`; None when there is none.

        Any text may be asked for. A project that is being deleted is not found.
        """
        ...

    async def project_statistics(self, project_id: str) -> ProjectStatistics:
        """Numbers of the last 24 hours; zero requests give None, never 0, for the averages.

        Exact, but for the 95th percentile of more than 10,000 requests, which is within 1 percent.
        """
        ...

    async def records(self, query: RecordQuery) -> Page[Record]:
        """One page of records, without attributes, resource and events.

        Equal sort keys are ordered by id, so pages do not overlap. A page beyond the end is empty. Totals
        are counted up to 10,000 and for 2 seconds, then `total` is a lower bound.

        Raises:
            ValueError: page or page_size is below 1.
        """
        ...

    async def record(self, project_id: str, record_id: str) -> RecordDetail | None:
        """A record with call tree and child spans; None for an unknown or malformed id or project.

        Child spans are those of the same trace and project that descend from the record's span, in start
        order, each once however often it was sent. What descends from another record belongs to that one.
        A span whose parent never arrived counts when its trace has only this record, unless the record itself
        descends from that parent.
        """
        ...

    async def call_tree(self, project_id: str, record_id: str) -> CallTree | None:
        """Only the call tree; None as above, or when the record has none."""
        ...

    async def endpoints(self, project_id: str) -> Sequence[str]:
        """Endpoints seen in the last 24 hours, most frequent first, at most 200; for filters."""
        ...

    async def statistics(self, requests: RequestFilter, *, group_by: GroupBy | None = None) -> Statistics:
        """Counts, errors and latencies of a window, and of each group in it if asked.

        Counts, sums, smallest and largest are exact, quantiles within 1 percent of the exact ones (below a
        microsecond: within a microsecond). Every request that was acknowledged before the call is counted, up
        to `minutes_behind`. What it costs depends on the window, not on the number of requests. Each minute
        and each hour tells 1,000 groups (endpoint, method, version and environment together) apart; the
        rarest beyond them are the group "[other]". Before the project's retention, where records are gone,
        only whole hours are known, for 400 days.

        Raises:
            ValueError: the window ends before it begins or is longer than 10 years.
        """
        ...

    async def series(self, requests: RequestFilter, resolution: timedelta) -> Series:
        """The same as one point per step of `resolution`, which begins at a multiple of it since 1970 (UTC).

        Raises:
            ValueError: as above; the resolution is not whole minutes; more than 2,000 points; a window of
                more than 8 days in steps that are not whole hours.
        """
        ...

    async def merged_call_tree(self, requests: RequestFilter) -> MergedCallTree | None:
        """All profiles of `requests.endpoint` that match the other names too, merged.

        Trees are of whole hours, so the window is widened to those that it touches; the answer names them.
        None without profiles. Sums are exact over the profiles that are in it; small subtrees may be folded
        into `[other]`. It has the newest profiles too, unless more than 200 of an hour with newer ones match:
        then they are missing for at most ten minutes, and `behind` is set.

        Raises:
            ValueError: no endpoint is given, or as above.
        """
        ...

    async def hot_functions(self, requests: RequestFilter) -> MergedHotFunctions:
        """By endpoint, the functions that most time of its matching profiles is charged to, heaviest first.

        For whole hours, as above, the running one up to ten minutes behind. 30 of each group and hour count.

        Raises:
            ValueError: as above.
        """
        ...

    async def versions(self, project_id: str) -> Sequence[SeenVersion]:
        """Versions that requests named, the last seen first, at most 1,000, for 400 days after the last."""
        ...

    async def check(self) -> None:
        """Raises StoreUnavailable when the database answers no read of the primary; for readiness."""
        ...


class Administration(Protocol):
    """Keys, retention, deletion and size of projects. All methods raise StoreUnavailable, see above."""

    async def add_key(self, project_id: str) -> IssuedKey:
        """One more key; those that exist stay valid.

        Raises:
            UnknownProject, TooManyKeys
        """
        ...

    async def rotate_key(self, project_id: str, *, overlap: timedelta = DEFAULT_KEY_OVERLAP) -> IssuedKey:
        """A new key; all others end after `overlap`, or when they would have ended anyway.

        With an overlap of zero they end at once: receivers that remember one notice within 10 seconds.

        Raises:
            UnknownProject, TooManyKeys
            ValueError: `overlap` is negative or longer than 365 days.
        """
        ...

    async def revoke_key(self, project_id: str, key: str) -> bool:
        """End a key at once; False without such a key.

        `key` is the whole key, or a beginning of what `ProjectKey` shows: 8 characters or more, which no
        other key of the project begins with.
        Receivers that remember it notice within 10 seconds. The last key may be revoked too.

        Raises:
            UnknownProject
        """
        ...

    async def configure(self, project_id: str, changes: Mapping[str, object]) -> Project:
        """Change some values of the project's config: all of `changes`, or nothing. None removes a value.

        Which there are, `profile_store.project_config` says; values are as JSON has them. Receivers and
        applications notice within 30 seconds.

        Raises:
            InvalidProject: a name or value is none of these.
            UnknownProject
        """
        ...

    async def set_retention(self, project_id: str, days: int) -> Project:
        """Keep what the project sends for `days` days; also what is stored already, as `upkeep` gets to it.

        Raises:
            UnknownProject
            ValueError: not a number from 1 to 3,650.
        """
        ...

    async def delete_project(self, project_id: str) -> bool:
        """From now on the project, its name and its keys do not exist; False when there is none of this id.

        Its name is free at once, for another project with another id. `upkeep` removes its data; until it
        has, True is returned again. What receivers that remember the project still store for it within
        some seconds is removed as well.
        """
        ...

    async def upkeep(self, *, max_documents: int = 10_000) -> Upkeep:
        """One bounded step of what deletions and changed retentions left to do.

        Touches at most `max_documents` documents, in batches of 1,000. May be called by several processes at
        once, and again after any crash: nothing is done twice and nothing is forgotten. A deletion, and a
        change of retention, is kept in mind for at least 15 minutes, longer than any receiver remembers what
        was before.
        """
        ...

    async def storage_report(self) -> StorageReport:
        """What everything takes, at the cost of reading some thousand documents."""
        ...


class Maintainer(Protocol):
    """Used by whoever keeps statistics up to date. Any number of processes may do it at the same time.

    Everything is computed anew from the records, so doing it again, or only half of it, changes nothing.
    """

    async def roll_up(self, *, project_id: str | None = None, max_minutes: int = 60) -> RollUpStep:
        """Bring some minutes, of one project or all, and the trees of at most one hour up to date.

        Takes some seconds at most unless a single minute or hour is very large; memory is bounded by the
        number of groups. Minutes that somebody may still write to without notice are left for later.

        A minute or hour that cannot be computed keeps nothing else waiting: the others of the step are worked
        off, the step tells of it (`failures`), and it is tried again after five minutes.

        Raises:
            StoreUnavailable: the rest waits for the next call.
        """
        ...

    async def request_roll_up(self, project_id: str, start: datetime, end: datetime) -> int:
        """Have all minutes from `start` to `end` that have records computed anew; returns how many.

        Raises:
            StoreUnavailable: some may be requested.
        """
        ...

    async def request_missing_roll_ups(self) -> int:
        """Have the minutes of all projects computed that are older than any of their rollups.

        For records that were stored before there were rollups; otherwise it finds none. Returns how many.

        Raises:
            StoreUnavailable: some may be requested.
        """
        ...


class Store(Reader, Writer, Administration, Maintainer, Protocol):
    """Everything together, as `open_store` gives it."""
