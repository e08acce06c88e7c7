"""`/`: the projects, or how to send the first data."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profile_store.contracts import Reader
from profile_store.model import Project, ProjectStatistics
from web.paging import PageLinks, page_number
from web.rendering import Renderer
from web.settings import WebSettings

PAGE_SIZE = 20
"""Statistics are read for each project shown, so this stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRow:
    """A project and its last 24 hours."""

    project: Project
    statistics: ProjectStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectListPage:
    """The contract of `projects.html`."""

    rows: Sequence[ProjectRow]
    links: PageLinks
    otlp_endpoint: str


def routes(store: Reader, renderer: Renderer, settings: WebSettings) -> list[Route]:
    """The routes of this page."""

    async def projects(request: Request) -> Response:
        page = await store.projects(page=page_number(request.query_params), page_size=PAGE_SIZE)
        statistics = await asyncio.gather(*(store.project_statistics(project.id) for project in page.items))
        context = ProjectListPage(
            rows=[
                ProjectRow(project=project, statistics=numbers)
                for project, numbers in zip(page.items, statistics, strict=True)
            ],
            links=PageLinks.of(page),
            otlp_endpoint=settings.otlp_endpoint,
        )
        return renderer.page(request, "projects.html", context)

    return [Route("/", projects)]
