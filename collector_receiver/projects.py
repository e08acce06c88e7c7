"""Which project a span belongs to: by key, or in open mode by service name; remembered for a short while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from collector_receiver.rate_limit import RateLimit
from collector_receiver.semantic_conventions import PROJECT_KEY, SERVICE_NAME, UNKNOWN_SERVICE, one_line
from collector_receiver.translation import Destination
from profile_store.contracts import Writer
from profile_store.model import Project

IngestMode = Literal["open", "key"]

KNOWN_SECONDS = 30.0
UNKNOWN_SECONDS = 5.0
MAX_REMEMBERED = 10_000
MAX_KEY_CHARACTERS = 256
MAX_SERVICE_NAME_CHARACTERS = 200
MAX_PROJECTS_PER_REQUEST = 256
RESOURCES_AT_A_TIME = 1_024  # then other requests have their turn

MISSING_KEY = "missing_project_key"
UNKNOWN_KEY = "unknown_project_key"
TOO_MANY_PROJECTS = "too_many_projects"


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
    ) -> None:
        self._store = store
        self._limit = limit or RateLimit()
        self._mode: IngestMode = mode
        self._clock = clock
        self._remembered: OrderedDict[tuple[str, str], tuple[Destination, float]] = OrderedDict()

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
        found: dict[tuple[str, str], Destination] = {}
        result: list[Destination] = []
        for number, batch in enumerate(batches):
            if number % RESOURCES_AT_A_TIME == 0:
                await asyncio.sleep(0)
            reference = self._reference(batch.resource)
            if reference not in found:
                if len(found) >= MAX_PROJECTS_PER_REQUEST:
                    result.append(Destination(refusal=TOO_MANY_PROJECTS))
                    continue
                found[reference] = await self._resolve(reference)
            result.append(found[reference])
        return result

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
        now = self._clock()
        remembered = self._remembered.get(reference)
        if remembered is not None and now < remembered[1]:
            return remembered[0]
        destination = await self._look_up(kind, text)
        self._remembered[reference] = (
            destination,
            now + (UNKNOWN_SECONDS if destination.refusal else KNOWN_SECONDS),
        )
        self._remembered.move_to_end(reference)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return destination

    async def _look_up(self, kind: str, text: str) -> Destination:
        if kind == "service":
            return self._destination(await self._store.project_for_service(text))
        project = await self._store.project_for_key(text)
        return self._destination(project) if project else Destination(refusal=UNKNOWN_KEY)

    def _destination(self, project: Project) -> Destination:
        return Destination(project_id=project.id, limit=self._limit.of_project(project.config))
