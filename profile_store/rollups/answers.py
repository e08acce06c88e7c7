"""What may be asked of statistics over many requests, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from otel_pyinstrument.call_tree import CallTree, HotFunction
from profile_store.rollups.measures import Measures

GroupBy: TypeAlias = Literal["endpoint", "method", "version", "environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Requests of one project that started in [start, end) and match every given name."""

    project_id: str
    start: datetime
    end: datetime
    endpoint: str | None = None
    method: str | None = None
    version: str | None = None
    environment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """`groups` by value of the field that was asked for, the most total time first; empty without one.

    `minutes_behind` minutes of the window lack their newest requests, because so many arrived late that they
    have not been worked off; normally 0.
    """

    overall: Measures
    groups: Mapping[str, Measures] = field(default_factory=dict[str, Measures])
    minutes_behind: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPoint:
    """The requests of one step; without any, `measures.count` is 0."""

    start: datetime
    measures: Measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One point per step, without gaps, from the step that holds the start of the window to its end."""

    resolution: timedelta
    points: Sequence[SeriesPoint]
    minutes_behind: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedCallTree:
    """The profiles of an endpoint that matched, as one tree, from `start` to `end`: whole hours.

    `profiles` are in the tree; `profiles_seen` were there, of which an hour merges a bounded sample. `behind`
    says that the newest profiles are missing: at most those of ten minutes.
    """

    tree: CallTree
    profiles: int
    profiles_seen: int
    hot_functions: Sequence[HotFunction]
    start: datetime
    end: datetime
    behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedHotFunctions:
    """By endpoint, the heaviest functions first, of the profiles from `start` to `end`: whole hours.

    `samples` and times are sums over the profiles.
    """

    by_endpoint: Mapping[str, Sequence[HotFunction]]
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenVersion:
    """A value of `service.version`, with the start of its first and last known request."""

    version: str
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class RollUpFailure:
    """`what` could not be computed, such as "the minute 2026-11-21T10:30", of a project (its id)."""

    what: str
    project_id: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class RollUpStep:
    """What one step of rolling up did. `waiting` minutes and hours of trees could be done at once.

    `settling` ones are too new: somebody may still be adding to them. `put_off` of those are not: they could
    not be computed, in this step (`failures`) or an earlier one.
    """

    minutes: int = 0
    trees: int = 0
    waiting: int = 0
    settling: int = 0
    put_off: int = 0
    failures: Sequence[RollUpFailure] = ()
