"""Keeps the names of a project few, whatever its senders make up: endpoints, versions, environments.

Statistics, filters and indexes cost by the number of names, and anyone who can reach an application can ask
it for a new path. So a name needs a seat, and seats are limited. Who comes first keeps the seat for as long
as the name is used; a name without a seat is counted under a collective one. See docs/adr/004-few-names.md.

Pure: no clock, no I/O. Days are numbers (`datetime.toordinal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias, get_args

from profile_store.model import EndpointOrigin

Family: TypeAlias = Literal["declared", "paths", "branches", "versions", "environments"]

SEATS: Mapping[Family, int] = MappingProxyType(
    {"declared": 1_000, "paths": 400, "branches": 100, "versions": 1_000, "environments": 50}
)
"""Names of each family in one project. `branches` are collective names of paths: `GET /products/{*}`."""

MAX_SIBLINGS = 64
"""Path segments directly below one other. The next ones are named `{*}`, with all that is below them."""

KEPT_DAYS = 32
"""How long a seat is kept after its last use: monthly jobs keep theirs."""

KEPT_DAYS_AFTER_ONE = 2
"""The same for a name that was used on one day only, as those of a scanner are."""

ANY = "{*}"
OTHER = "{other}"
UNMATCHED = "{unmatched}"
ID = "{id}"
"""What templates of paths put in the place of a number or another identifier."""

_MAX_NAME_CHARACTERS = 1_024
_ENDPOINT_FAMILIES: tuple[Family, ...] = ("declared", "paths", "branches")


class Seat(NamedTuple):
    """When a name was used, to the day."""

    first_day: int
    last_day: int


class Wanted(NamedTuple):
    """What a record would be counted under if there were seats for everyone."""

    endpoint: str
    version: str
    environment: str
    method: str = ""
    origin: EndpointOrigin = "declared"


class Naming(NamedTuple):
    """What a record is counted under."""

    endpoint: str
    version: str
    environment: str


Seats: TypeAlias = Mapping[Family, Mapping[str, Seat]]


@dataclass(frozen=True)
class NameList:
    """The seats of one project. `day` is when seats were last given or given up."""

    seats: Seats = field(default_factory=lambda: {family: {} for family in get_args(Family)})
    day: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.seats.values()))

    def naming(self, wanted: Wanted) -> Naming:
        """The names that `wanted` gets as things stand. A text that no database can hold is left as it is."""
        return Naming(
            endpoint=self._endpoint(wanted),
            version=self._or_other("versions", wanted.version),
            environment=self._or_other("environments", wanted.environment),
        )

    def holds(self, wanted: Wanted) -> bool:
        """Whether `wanted` keeps all of its own names."""
        return self.naming(wanted) == wanted[:3]

    def seat(self, many: Iterable[Wanted], day: int) -> NameList:
        """The list after giving seats to `many`, as far as there are any, and noting who is used today.

        The same object when nothing changes. Who asks twice, or in another process, changes nothing.
        """
        seating = _Seating(self, max(day, self.day))
        for wanted in many:
            seating.take(wanted)
        return seating.result() if seating.changed else self

    @cached_property
    def children(self) -> Mapping[str, int]:
        """The tree of known paths: how many segments are known below each path."""
        counts: dict[str, int] = {"": 0}
        for name in self.seats["paths"]:
            _plant(counts, name if name.startswith("/") else name.partition(" ")[2])
        return counts

    def _endpoint(self, wanted: Wanted) -> str:
        name, method = wanted.endpoint, wanted.method
        if not _is_unicode(name) or any(name in self.seats[family] for family in _ENDPOINT_FAMILIES):
            return name
        match wanted.origin:
            case "unmatched":
                return f"{method} /{UNMATCHED}" if method else UNMATCHED
            case "path":
                above = _path_of(wanted).rpartition("/")[0]
                while above and _branch(method, above) not in self.seats["branches"]:
                    above = above.rpartition("/")[0]
                return _branch(method, above)
            case "declared":
                return f"{method} /{ANY}" if method else OTHER

    def _or_other(self, family: Family, name: str) -> str:
        return name if not name or name in self.seats[family] or not _is_unicode(name) else OTHER


class _Seating:
    """One change of a list: seats that nobody used for long are free, then who comes first sits first."""

    def __init__(self, names: NameList, day: int) -> None:
        self.changed = False
        self._day = day
        freed = 0
        self._seats: dict[Family, dict[str, Seat]] = {}
        for family, seats in names.seats.items():
            kept = seats if day == names.day else {n: s for n, s in seats.items() if not _is_idle(s, day)}
            freed += len(seats) - len(kept)
            self._seats[family] = dict(kept)
        self._children = dict((NameList(self._seats) if freed else names).children)

    def result(self) -> NameList:
        return NameList(self._seats, self._day)

    def take(self, wanted: Wanted) -> None:
        self._take_endpoint(wanted)
        if wanted.version:
            self._sit("versions", wanted.version)
        if wanted.environment:
            self._sit("environments", wanted.environment)

    def _take_endpoint(self, wanted: Wanted) -> None:
        for family in _ENDPOINT_FAMILIES:
            if wanted.endpoint in self._seats[family]:
                self._sit(family, wanted.endpoint)
                return
        if wanted.origin == "declared":
            self._sit("declared", wanted.endpoint)
        elif wanted.origin == "path":
            self._take_path(wanted, _path_of(wanted))

    def _take_path(self, wanted: Wanted, path: str) -> None:
        """A seat for the path, else one for the branch of the tree that has no room for it."""
        above = ""
        for segment in path.split("/")[1:]:
            known = f"{above}/{segment}" in self._children
            if not known and segment != ID and self._children.get(above, 0) >= MAX_SIBLINGS:
                self._sit_branch(wanted.method, above)
                return
            above = f"{above}/{segment}"
        if self._sit("paths", wanted.endpoint):
            _plant(self._children, path)
            return
        while above and above not in self._children:
            above = above.rpartition("/")[0]
        self._sit_branch(wanted.method, above)

    def _sit_branch(self, method: str, above: str) -> None:
        if above:  # the one of the root needs no seat
            self._sit("branches", _branch(method, above))

    def _sit(self, family: Family, name: str) -> bool:
        """Whether `name` has a seat now."""
        seats = self._seats[family]
        seat = seats.get(name)
        if seat is None and (len(seats) >= SEATS[family] or not _can_sit(name)):
            return False
        if seat is None or seat.last_day < self._day:
            seats[name] = Seat(seat.first_day if seat else self._day, self._day)
            self.changed = True
        return True


def _path_of(wanted: Wanted) -> str:
    return wanted.endpoint.removeprefix(f"{wanted.method} ")


def _branch(method: str, above: str) -> str:
    """The collective name of what is below a path. Senders of plain JSON need not tell a method."""
    return f"{method} {above}/{ANY}" if method else f"{above}/{ANY}"


def _plant(children: dict[str, int], path: str) -> None:
    above = ""
    for segment in path.split("/")[1:]:
        here = f"{above}/{segment}"
        if here not in children:
            children[here] = 0
            children[above] = children.get(above, 0) + 1
        above = here


def _is_idle(seat: Seat, day: int) -> bool:
    kept = KEPT_DAYS if seat.last_day > seat.first_day else KEPT_DAYS_AFTER_ONE
    return day - seat.last_day > kept


def _can_sit(name: str) -> bool:
    return len(name) <= _MAX_NAME_CHARACTERS and _is_unicode(name)


def _is_unicode(name: str) -> bool:
    """False for lone surrogates, which no database holds."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
