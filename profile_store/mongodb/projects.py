"""Projects, for reading and writing."""

from __future__ import annotations

import secrets
import unicodedata
from typing import cast, get_args

from bson import ObjectId, encode
from bson.errors import BSONError
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from profile_store.contracts import InvalidProject, ProjectExists
from profile_store.model import Framework, Page, Project, ProjectStatus
from profile_store.mongodb import indexes
from profile_store.mongodb.client import DatabaseUser, Document
from profile_store.mongodb.documents import project_document, project_from_document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.project_names import (
    MAX_NAME_CHARACTERS,
    has_forbidden_characters,
    project_name_of_service,
)

_MAX_TEXT_CHARACTERS = 2_000
_KEY_BYTES = 24


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
            items=[project_from_document(item) for item in found], page=page, page_size=page_size, total=total
        )

    async def project(self, reference: str) -> Project | None:
        """See `profile_store.contracts.Reader.project`."""
        filters: Document = {"project_key": reference}
        if ObjectId.is_valid(reference):
            filters = {"$or": [filters, {"_id": ObjectId(reference)}]}
        return await self._find(filters)

    async def project_for_key(self, project_key: str) -> Project | None:
        """See `profile_store.contracts.Writer.project_for_key`."""
        return await self._find({"project_key": project_key, "status": "active"})

    async def _find(self, filters: Document) -> Project | None:
        if not _can_be_asked(filters):
            return None
        with unavailable_on_failure("read a project"):
            document = await self._database[indexes.PROJECTS].find_one(filters)
        return None if document is None else project_from_document(document)

    async def project_for_service(self, service_name: str) -> Project:
        """See `profile_store.contracts.Writer.project_for_service`."""
        name = project_name_of_service(service_name)
        if project := await self._find({"name": name}):
            return project
        fresh = project_document(self._fresh(name))
        with unavailable_on_failure("make a project"):
            # When another process wins the race the server searches again, as the filter is one unique key.
            document = await self._database[indexes.PROJECTS].find_one_and_update(
                {"name": name},
                {"$setOnInsert": {key: value for key, value in fresh.items() if key != "name"}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return project_from_document(cast("Document", document))

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
        if framework not in get_args(Framework):
            raise InvalidProject(f"framework is none of {', '.join(get_args(Framework))}")
        project = self._fresh(name, description, cast("Framework", framework), base_url)
        document = {"_id": ObjectId(project.id), **project_document(project)}
        with unavailable_on_failure("make a project"):
            try:
                await self._database[indexes.PROJECTS].insert_one(document)
            except DuplicateKeyError:
                raise ProjectExists(f"a project named {name!r} exists already") from None
        return project_from_document(document)

    def _fresh(
        self, name: str, description: str = "", framework: Framework = "other", base_url: str = ""
    ) -> Project:
        now = self._clock()
        status: ProjectStatus = "active"
        return Project(
            id=str(ObjectId()),
            name=name,
            project_key=f"opk_{secrets.token_urlsafe(_KEY_BYTES)}",
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
