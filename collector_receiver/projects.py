"""Which project a span belongs to: by key, or in open mode by service name; remembered for a short while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from collector_receiver.rate_limit import RateLimit
from collector_receiver.refusals import TryAgain
from collector_receiver.semantic_conventions import PROJECT_KEY, SERVICE_NAME, UNKNOWN_SERVICE, one_line
from collector_receiver.shared_lookups import MAX_PER_QUERY, SharedLookups
from collector_receiver.translation import Destination
from profile_store.contracts import ProjectLimitReached, Writer
from profile_store.model import Project

IngestMode = Literal["open", "key"]

REMEMBERED_SECONDS = 5.0
"""A revoked key has to be noticed within 10 seconds, and a request may take some of them."""

MAX_REMEMBERED = 10_000
MAX_KEY_CHARACTERS = 256
MAX_SERVICE_NAME_CHARACTERS = 200
MAX_PROJECTS = 1_000
MAX_NEW_PROJECTS_PER_REQUEST = 256
NEW_PROJECTS_RETRY_SECONDS = 1.0

MAX_UNKNOWN_PER_REQUEST = 2_000
"""Keys and services that name nothing: they cost a stranger nothing, and each thousand of them a query."""

MAX_REFUSALS_REMEMBERED_PER_REQUEST = 256
RESOURCES_AT_A_TIME = 1_024  # then other requests have their turn

MISSING_KEY = "missing_project_key"
UNKNOWN_KEY = "unknown_project_key"
TOO_MANY_PROJECTS = "too_many_projects"
TOO_MANY_NEW_PROJECTS = "too_many_new_projects"
PROJECT_LIMIT = "project_limit_reached"

KEY_REFUSALS = frozenset({MISSING_KEY, UNKNOWN_KEY})
"""Refusals that a right key would mend."""

Reference: TypeAlias = tuple[Literal["key", "service"], str]
"""What a sender says about where it belongs."""


class Sending(Protocol):
    """Part of a request with a resource of its own: `ResourceSpans`, `ResourceLogs`."""

    @property
    def resource(self) -> Resource: ...


class Projects:
    """Resolves senders to projects. Belongs to the loop of the store."""

    def __init__(
        self,
        store: Writer,
        mode: IngestMode,
        clock: Callable[[], float] = time.monotonic,
        *,
        limit: RateLimit | None = None,
        max_projects: int = MAX_PROJECTS,
    ) -> None:
        self._store = store
        self._limit = limit or RateLimit()
        self._mode: IngestMode = mode
        self._max_projects = max_projects
        self._clock = clock
        # Apart, so that a key that came with a request never waits behind the many that one may name inside.
        self._request_keys = SharedLookups(self._look_up_keys)
        self._resource_keys = SharedLookups(self._look_up_keys)
        self._services = SharedLookups(self._look_up_services)
        self._new_projects = SharedLookups(self._make_projects)
        # Apart, so that a flood of wrong keys displaces no right one.
        self._known = _Remembered(clock)
        self._refused = _Remembered(clock)

    async def destinations(self, batches: Sequence[Sending], key: str | None) -> list[Destination]:
        """One destination per element of `batches`.

        A key sent with the request decides for all of them. Without one, each resource's `project.key`
        decides, and without that, in open mode, its `service.name`. A wrong key is refused in either mode:
        falling back to the service's name would hide the mistake.

        Projects that exist are found, however many there are; what a request may cost is bounded by those
        that do not. It makes `MAX_NEW_PROJECTS_PER_REQUEST` of them and then has to come again, which ends
        because each time fewer are missing. Where nothing can be made, of wrong keys or because there are
        `max_projects`, it does not have to: after `MAX_UNKNOWN_PER_REQUEST` the others are refused unseen,
        except those that are remembered.

        Raises:
            StoreUnavailable: a project could not be looked up.
            TryAgain: more projects are to be made than one request may make, or too much is being looked up.
        """
        if key is not None:
            return [await self.of_key(key)] * len(batches)
        references: list[Reference] = []
        for number, batch in enumerate(batches):
            if number and number % RESOURCES_AT_A_TIME == 0:
                await asyncio.sleep(0)
            references.append(self._reference(batch.resource))
        found = await self._resolve(list(dict.fromkeys(references)), self._resource_keys)
        too_many = Destination(refusal=TOO_MANY_PROJECTS)
        return [found.get(reference, too_many) for reference in references]

    async def of_key(self, key: str) -> Destination:
        """The destination that `key` names.

        Raises:
            StoreUnavailable: it could not be looked up.
            TryAgain: too much is being looked up.
        """
        reference: Reference = ("key", key)
        return (await self._resolve([reference], self._request_keys))[reference]

    def _reference(self, resource: Resource) -> Reference:
        key, service = "", ""
        for attribute in resource.attributes:
            if attribute.key == PROJECT_KEY:
                key = attribute.value.string_value
            elif attribute.key in SERVICE_NAME:
                service = attribute.value.string_value
        if key or self._mode == "key":
            return ("key", key)
        return ("service", one_line(service, limit=MAX_SERVICE_NAME_CHARACTERS) or UNKNOWN_SERVICE)

    async def _resolve(
        self, references: Sequence[Reference], key_lookups: SharedLookups
    ) -> Mapping[Reference, Destination]:
        """Where each of the distinct `references` goes; those that were one too many are absent."""
        # Not from the answers on, which may come late and tell what was.
        until = self._clock() + REMEMBERED_SECONDS
        found: dict[Reference, Destination] = {}
        unknown: list[Reference] = []
        # One query's worth after the other: what others ask for meanwhile has its turn in between.
        for start in range(0, len(references), MAX_PER_QUERY):
            if start:
                await asyncio.sleep(0)
            some = references[start : start + MAX_PER_QUERY]
            found.update(self._recall(some))
            if len(unknown) < MAX_UNKNOWN_PER_REQUEST:
                missing = [reference for reference in some if reference not in found]
                found.update(await self._look_up(missing, key_lookups, until))
                unknown += [reference for reference in missing if reference not in found]
        if unknown:
            found.update(await self._settle(unknown, until))
        return found

    def _recall(self, references: Sequence[Reference]) -> dict[Reference, Destination]:
        """What is known about them without the database; the others are absent."""
        found: dict[Reference, Destination] = {}
        for reference in references:
            kind, text = reference
            if kind == "key" and not text:
                found[reference] = Destination(refusal=MISSING_KEY)
            elif kind == "key" and len(text) > MAX_KEY_CHARACTERS:
                found[reference] = Destination(refusal=UNKNOWN_KEY)
            elif known := self._known.get(reference) or self._refused.get(reference):
                found[reference] = known
        return found

    async def _look_up(
        self, references: Sequence[Reference], key_lookups: SharedLookups, until: float
    ) -> dict[Reference, Destination]:
        """What the database knows about them; the others are absent."""
        found: dict[Reference, Destination] = {}
        keys = [text for kind, text in references if kind == "key"]
        services = [text for kind, text in references if kind == "service"]
        if keys:
            found.update(self._remember("key", await key_lookups.of(keys), until))
        if services:
            found.update(self._remember("service", await self._services.of(services), until))
        return found

    async def _settle(self, unknown: Sequence[Reference], until: float) -> Mapping[Reference, Destination]:
        """What becomes of those that nobody knows: keys are refused, services become projects.

        Raises:
            TryAgain: there is room for more projects, but not in this request.
        """
        settled: dict[Reference, Destination] = {}
        new = [text for kind, text in unknown if kind == "service"]
        if new:
            asked = new[:MAX_NEW_PROJECTS_PER_REQUEST]
            settled = self._remember("service", await self._new_projects.of(asked), until)
            # A refusal of the others would lose them for good. When there is no room it is the answer to all:
            # repeating the request would change nothing.
            if len(settled) == len(asked) < len(new):
                raise TryAgain(
                    TOO_MANY_NEW_PROJECTS,
                    f"{len(asked)} projects were made; send again for the other services",
                    NEW_PROJECTS_RETRY_SECONDS,
                )
        wrong, no_room = Destination(refusal=UNKNOWN_KEY), Destination(refusal=PROJECT_LIMIT)
        refused = {
            reference: wrong if reference[0] == "key" else no_room
            for reference in unknown
            if reference not in settled
        }
        # Not all: a flood would displace the mistakes that senders repeat.
        for reference in list(refused)[:MAX_REFUSALS_REMEMBERED_PER_REQUEST]:
            self._refused.put(reference, refused[reference], until)
        return settled | refused

    def _remember(
        self, kind: Literal["key", "service"], answers: Mapping[str, Destination], until: float
    ) -> dict[Reference, Destination]:
        found: dict[Reference, Destination] = {(kind, text): answer for text, answer in answers.items()}
        for reference, destination in found.items():
            self._known.put(reference, destination, until)
        return found

    async def _look_up_keys(self, keys: Collection[str]) -> Mapping[str, Destination]:
        return self._destinations(await self._store.projects_for_keys(keys))

    async def _look_up_services(self, names: Collection[str]) -> Mapping[str, Destination]:
        return self._destinations(await self._store.projects_for_services(names))

    async def _make_projects(self, names: Collection[str]) -> Mapping[str, Destination]:
        """The projects of these names, as far as there is room for those that are missing."""
        # Others may have made some since they were looked up; these need no room.
        projects = dict(await self._store.projects_for_services(names))
        for name in names:
            if name not in projects:
                try:
                    projects[name] = await self._store.project_for_service(
                        name, max_projects=self._max_projects
                    )
                except ProjectLimitReached:
                    break
        return self._destinations(projects)

    def _destinations(self, projects: Mapping[str, Project]) -> Mapping[str, Destination]:
        return {
            text: Destination(project_id=project.id, limit=self._limit.of_project(project.config))
            for text, project in projects.items()
        }


class _Remembered:
    """What was found out in the last seconds, at most `MAX_REMEMBERED` of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[Destination, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, reference: tuple[str, str]) -> Destination | None:
        found = self._found.get(reference)
        return found[0] if found is not None and self._clock() < found[1] else None

    def put(self, reference: tuple[str, str], destination: Destination, until: float) -> None:
        self._found[reference] = (destination, until)
        self._found.move_to_end(reference)
        if len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)
