"""Projects, for reading and writing."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import cast, get_args

from bson import ObjectId, encode
from bson.errors import BSONError
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from profile_store.contracts import InvalidProject, ProjectExists, ProjectLimitReached, UnknownProject
from profile_store.model import Framework, Page, Project, ProjectStatus
from profile_store.mongodb import indexes
from profile_store.mongodb.client import DatabaseUser, Document, newest
from profile_store.mongodb.documents import (
    is_valid_key,
    key_document,
    key_from_document,
    project_document,
    project_from_document,
)
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.project_config import checked
from profile_store.project_keys import fresh_key, key_hash
from profile_store.project_names import (
    MAX_NAME_CHARACTERS,
    has_forbidden_characters,
    is_web_address,
    project_name_of_service,
)

_MAX_TEXT_CHARACTERS = 2_000


class Projects(DatabaseUser):
    """Names and keys are unique; the database's indexes decide every race."""

    async def projects(
        self, *, page: int = 1, page_size: int = 20, status: str | None = None
    ) -> Page[Project]:
        """See `profile_store.contracts.Reader.projects`."""
        if page < 1 or page_size < 1:
            raise ValueError(f"page={page}, page_size={page_size}: both count from 1")
        skip = (page - 1) * page_size
        filters = {} if status is None else {"status": status}
        if not _can_be_asked(filters):
            return Page(items=(), page=page, page_size=page_size, total=0)
        with unavailable_on_failure("list projects"):
            total = await self._database[indexes.PROJECTS].count_documents(filters)
            found: list[Document] = []
            if skip < total:
                found = (
                    await self._database[indexes.PROJECTS]
                    .find(filters)
                    .sort("name")
                    .skip(skip)
                    .limit(page_size)
                    .to_list()
                )
        return Page(
            items=[self._project(item) for item in found], page=page, page_size=page_size, total=total
        )

    async def project(self, reference: str) -> Project | None:
        """See `profile_store.contracts.Reader.project`."""
        if ObjectId.is_valid(reference):
            return await self._find({"_id": ObjectId(reference)})
        return await self._find_by_key(reference)

    async def projects_for_keys(self, project_keys: Collection[str]) -> Mapping[str, Project]:
        """See `profile_store.contracts.Writer.projects_for_keys`."""
        key_of_hash = {key_hash(key): key for key in project_keys}
        if not key_of_hash:
            return {}
        now = self._clock()
        found: dict[str, Project] = {}
        with unavailable_on_failure("look up keys"):
            cursor = newest(self._database[indexes.PROJECTS]).find(
                {"keys.hash": {"$in": list(key_of_hash)}, "status": "active"}
            )
            async for document in cursor:
                for key in document["keys"]:
                    if key["hash"] in key_of_hash and is_valid_key(key, now):
                        found[key_of_hash[key["hash"]]] = project_from_document(document, now)
        return found

    async def _find_by_key(self, project_key: str) -> Project | None:
        wanted = key_hash(project_key)
        now = self._clock()
        with unavailable_on_failure("look up a key"):
            document = await newest(self._database[indexes.PROJECTS]).find_one({"keys.hash": wanted})
        if document is None:
            return None
        if not any(key["hash"] == wanted and is_valid_key(key, now) for key in document["keys"]):
            return None
        return project_from_document(document, now)

    async def _find(self, filters: Document) -> Project | None:
        with unavailable_on_failure("read a project"):
            document = await self._database[indexes.PROJECTS].find_one(filters)
        return None if document is None else self._project(document)

    def _project(self, document: Document) -> Project:
        return project_from_document(document, self._clock())

    async def projects_for_services(self, service_names: Collection[str]) -> Mapping[str, Project]:
        """See `profile_store.contracts.Writer.projects_for_services`."""
        names = {service: project_name_of_service(service) for service in service_names}
        if not names:
            return {}
        with unavailable_on_failure("look up projects"):
            cursor = self._database[indexes.PROJECTS].find({"name": {"$in": list(set(names.values()))}})
            by_name = {document["name"]: self._project(document) async for document in cursor}
        return {service: by_name[name] for service, name in names.items() if name in by_name}

    async def project_for_service(self, service_name: str, *, max_projects: int | None = None) -> Project:
        """See `profile_store.contracts.Writer.project_for_service`."""
        name = project_name_of_service(service_name)
        if project := await self._find({"name": name}):
            return project
        fresh = project_document(self._fresh(name), keys=())
        projects = self._database[indexes.PROJECTS]
        with unavailable_on_failure("make a project"):
            if max_projects is not None:
                # Reads keys of one index, and never more of them than the limit.
                count = await projects.count_documents({}, limit=max(1, max_projects), hint="_id_")
                if count >= max_projects:
                    raise ProjectLimitReached(f"there are {count} projects, {max_projects} are allowed")
            # When another process wins the race the server searches again, as the filter is one unique key.
            document = await projects.find_one_and_update(
                {"name": name},
                {"$setOnInsert": {key: value for key, value in fresh.items() if key != "name"}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return self._project(cast("Document", document))

    async def create_project(
        self, name: str, *, description: str = "", framework: str = "other", base_url: str = ""
    ) -> Project:
        """See `profile_store.contracts.Writer.create_project`."""
        name = unicodedata.normalize("NFC", name.strip())
        if not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise InvalidProject(f"name has {len(name)} characters, allowed are 1 to {MAX_NAME_CHARACTERS}")
        if has_forbidden_characters(name):
            raise InvalidProject("name has control characters or line breaks, remove them")
        for field, text in (("description", description), ("base_url", base_url)):
            if len(text) > _MAX_TEXT_CHARACTERS or not _can_be_asked({field: text}):
                raise InvalidProject(
                    f"{field} is not valid text of at most {_MAX_TEXT_CHARACTERS} characters"
                )
        if base_url and not is_web_address(base_url):
            raise InvalidProject(f"base_url is {ascii(base_url)[:100]}: use http:// or https:// in one line")
        if framework not in get_args(Framework):
            known = ", ".join(get_args(Framework))
            raise InvalidProject(f"framework is {ascii(framework)[:100]}: use one of {known}")
        project = self._fresh(name, description, cast("Framework", framework), base_url)
        secret = fresh_key()
        key = key_document(secret, created_at=project.created_at)
        document = {"_id": ObjectId(project.id), **project_document(project, [key])}
        with unavailable_on_failure("make a project"):
            try:
                await self._database[indexes.PROJECTS].insert_one(document)
            except DuplicateKeyError:
                raise ProjectExists(f"a project named {name!r} exists already") from None
        return replace(project, project_key=secret, keys=[key_from_document(key)])

    async def configure(self, project_id: str, changes: Mapping[str, object]) -> Project:
        """See `profile_store.contracts.Administration.configure`."""
        changes = checked(changes)
        kept = {f"config.{name}": value for name, value in changes.items() if value is not None}
        removed = {f"config.{name}": "" for name, value in changes.items() if value is None}
        update: Document = {"$set": {**kept, "updated_at": self._clock()}}
        if removed:
            update["$unset"] = removed
        document: Document | None = None
        if ObjectId.is_valid(project_id):
            with unavailable_on_failure("configure a project"):
                document = await self._database[indexes.PROJECTS].find_one_and_update(
                    {"_id": ObjectId(project_id)}, update, return_document=ReturnDocument.AFTER
                )
        if document is None:
            raise UnknownProject(f"no project has the id {project_id[:100]!r}")
        return self._project(document)

    def _fresh(
        self, name: str, description: str = "", framework: Framework = "other", base_url: str = ""
    ) -> Project:
        now = self._clock()
        status: ProjectStatus = "active"
        project_id = str(ObjectId())
        return Project(
            id=project_id,
            name=name,
            project_key=project_id,
            description=description,
            framework=framework,
            base_url=base_url,
            status=status,
            created_at=now,
            updated_at=now,
        )


def _can_be_asked(filters: Document) -> bool:
    """Lone surrogates and the like are in no document, so nothing needs to be asked."""
    try:
        encode(filters)
    except (BSONError, ValueError, OverflowError):
        return False
    return True
