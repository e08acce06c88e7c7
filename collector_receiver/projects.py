"""Which project a span belongs to: by key, or in open mode by service name; remembered for a short while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from collector_receiver.rate_limit import RateLimit
from collector_receiver.semantic_conventions import PROJECT_KEY, SERVICE_NAME, UNKNOWN_SERVICE, one_line
from collector_receiver.shared_lookups import SharedLookups
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
MAX_PROJECTS_PER_REQUEST = 256
RESOURCES_AT_A_TIME = 1_024  # then other requests have their turn

MISSING_KEY = "missing_project_key"
UNKNOWN_KEY = "unknown_project_key"
TOO_MANY_PROJECTS = "too_many_projects"
PROJECT_LIMIT = "project_limit_reached"

KEY_REFUSALS = frozenset({MISSING_KEY, UNKNOWN_KEY})
"""Refusals that a right key would mend."""


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
        self._lookups = {
            "key": SharedLookups(self._look_up_keys),
            "service": SharedLookups(self._look_up_services),
        }
        # Apart, so that a flood of wrong keys displaces no right one.
        self._known = _Remembered(clock)
        self._refused = _Remembered(clock)

    async def destinations(self, batches: Sequence[Sending], key: str | None) -> list[Destination]:
        """One destination per element of `batches`.

        A key sent with the request decides for all of them. Without one, each resource's `project.key`
        decides, and without that, in open mode, its `service.name`. A wrong key is refused in either mode:
        falling back to the service's name would hide the mistake.

        Raises:
            StoreUnavailable: a project could not be looked up.
        """
        if key is not None:
            return [await self.of_key(key)] * len(batches)
        references: list[tuple[str, str]] = []
        for number, batch in enumerate(batches):
            if number and number % RESOURCES_AT_A_TIME == 0:
                await asyncio.sleep(0)
            references.append(self._reference(batch.resource))
        distinct = list(dict.fromkeys(references))[:MAX_PROJECTS_PER_REQUEST]
        found = {reference: known for reference in distinct if (known := self._remembered(reference))}
        if missing := [reference for reference in distinct if reference not in found]:
            found.update(zip(missing, await asyncio.gather(*map(self._resolve, missing)), strict=True))
        too_many = Destination(refusal=TOO_MANY_PROJECTS)
        return [found.get(reference, too_many) for reference in references]

    async def of_key(self, key: str) -> Destination:
        """The destination that `key` names.

        Raises:
            StoreUnavailable: it could not be looked up.
        """
        return await self._resolve(("key", key))

    def _reference(self, resource: Resource) -> tuple[str, str]:
        key, service = "", ""
        for attribute in resource.attributes:
            if attribute.key == PROJECT_KEY:
                key = attribute.value.string_value
            elif attribute.key in SERVICE_NAME:
                service = attribute.value.string_value
        if key or self._mode == "key":
            return ("key", key)
        return ("service", one_line(service, limit=MAX_SERVICE_NAME_CHARACTERS) or UNKNOWN_SERVICE)

    async def _resolve(self, reference: tuple[str, str]) -> Destination:
        kind, text = reference
        if kind == "key" and not text:
            return Destination(refusal=MISSING_KEY)
        if kind == "key" and len(text) > MAX_KEY_CHARACTERS:
            return Destination(refusal=UNKNOWN_KEY)
        if remembered := self._remembered(reference):
            return remembered
        # Not from the answer on, which may come late and tell what was.
        until = self._clock() + REMEMBERED_SECONDS
        destination = await self._lookups[kind].of(text)
        (self._refused if destination.refusal else self._known).put(reference, destination, until)
        return destination

    def _remembered(self, reference: tuple[str, str]) -> Destination | None:
        return self._known.get(reference) or self._refused.get(reference)

    async def _look_up_keys(self, keys: Collection[str]) -> Mapping[str, Destination]:
        projects = await self._store.projects_for_keys(keys)
        unknown = Destination(refusal=UNKNOWN_KEY)
        return {key: self._destination(projects[key]) if key in projects else unknown for key in keys}

    async def _look_up_services(self, names: Collection[str]) -> Mapping[str, Destination]:
        projects = dict(await self._store.projects_for_services(names))
        for name in names:
            if name not in projects:
                try:
                    projects[name] = await self._store.project_for_service(
                        name, max_projects=self._max_projects
                    )
                except ProjectLimitReached:
                    break
        full = Destination(refusal=PROJECT_LIMIT)
        return {name: self._destination(projects[name]) if name in projects else full for name in names}

    def _destination(self, project: Project) -> Destination:
        return Destination(project_id=project.id, limit=self._limit.of_project(project.config))


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
