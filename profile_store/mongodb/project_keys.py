"""Keys of existing projects: more of them, new for old ones, none any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from bson import ObjectId

from profile_store.contracts import (
    DEFAULT_KEY_OVERLAP,
    MAX_KEY_OVERLAP,
    StoreUnavailable,
    TooManyKeys,
    UnknownProject,
)
from profile_store.model import IssuedKey
from profile_store.mongodb import indexes
from profile_store.mongodb.client import DatabaseUser, Document
from profile_store.mongodb.documents import is_valid_key, key_document, key_from_document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.project_keys import MAX_KEYS, MIN_PREFIX_CHARACTERS, fresh_key, key_hash

_ATTEMPTS = 10


class ProjectKeys(DatabaseUser):
    """A project's keys lie in its document, so one write replaces them all or none."""

    async def add_key(self, project_id: str) -> IssuedKey:
        """See `profile_store.contracts.Administration.add_key`."""
        return await self._issue(project_id, lambda keys, _now: keys)

    async def rotate_key(self, project_id: str, *, overlap: timedelta = DEFAULT_KEY_OVERLAP) -> IssuedKey:
        """See `profile_store.contracts.Administration.rotate_key`."""
        if not timedelta(0) <= overlap <= MAX_KEY_OVERLAP:
            raise ValueError(f"overlap is {overlap}: use 0 to {MAX_KEY_OVERLAP.days} days")

        def ending(keys: list[Document], now: datetime) -> list[Document]:
            if not overlap:
                return []
            end = now + overlap
            return [{**key, "expires_at": min(end, key["expires_at"] or end)} for key in keys]

        return await self._issue(project_id, ending)

    async def revoke_key(self, project_id: str, key: str) -> bool:
        """See `profile_store.contracts.Administration.revoke_key`."""
        revoked = False

        def without(keys: list[Document], _now: datetime) -> list[Document]:
            nonlocal revoked
            named = _named(keys, key)
            revoked = named is not None
            return [each for each in keys if each is not named]

        await self._change_keys(project_id, without)
        return revoked

    async def _issue(
        self, project_id: str, others: Callable[[list[Document], datetime], list[Document]]
    ) -> IssuedKey:
        secret = fresh_key()
        fresh = key_document(secret, created_at=self._clock())

        def change(keys: list[Document], now: datetime) -> list[Document]:
            changed = others(keys, now)
            if len(changed) >= MAX_KEYS:
                raise TooManyKeys(f"the project has {len(changed)} valid keys; revoke one first")
            return [*changed, fresh]

        await self._change_keys(project_id, change)
        return IssuedKey(secret=secret, key=key_from_document(fresh))

    async def _change_keys(
        self, project_id: str, change: Callable[[list[Document], datetime], list[Document]]
    ) -> None:
        """Replace the valid keys; those that have ended go. A change by somebody else meanwhile is kept."""
        if not ObjectId.is_valid(project_id):
            raise UnknownProject(f"no project has the id {project_id[:100]!r}")
        projects, key = self._database[indexes.PROJECTS], ObjectId(project_id)
        for _ in range(_ATTEMPTS):
            now = self._clock()
            with unavailable_on_failure("change the keys of a project"):
                document = await projects.find_one({"_id": key}, {"keys": True})
                if document is None:
                    raise UnknownProject(f"no project has the id {project_id}")
                # None in what a receiver of an earlier version made meanwhile.
                before: list[Document] | None = document.get("keys")
                after = change([item for item in before or () if is_valid_key(item, now)], now)
                if after == before:
                    return
                replaced = await projects.update_one(
                    {"_id": key, "keys": before}, {"$set": {"keys": after, "updated_at": now}}
                )
            if replaced.matched_count:
                return
        raise StoreUnavailable("the keys of the project are being changed by others; try again")


def _named(keys: list[Document], key: str) -> Document | None:
    """The one that is `key` or the only one that begins so."""
    wanted = key_hash(key)
    found = [each for each in keys if each["hash"] == wanted]
    if not found and len(key) >= MIN_PREFIX_CHARACTERS:
        found = [each for each in keys if each["prefix"].startswith(key)]
    return found[0] if len(found) == 1 else None
