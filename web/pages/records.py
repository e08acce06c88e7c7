"""`/projects/{id}/records`: the requests of a project, filtered by the address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profile_store.contracts import Reader
from profile_store.model import Page, Project, Record
from web.paging import PageLinks
from web.record_filters import METHODS, PAGE_SIZE, RANGES, RecordFilters, now, parse
from web.rendering import Renderer
from web.settings import WebSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordListPage:
    """The contract of `records.html`."""

    project: Project
    filters: RecordFilters
    records: Sequence[Record]
    links: PageLinks
    endpoints: Sequence[str]
    methods: Sequence[str]
    ranges: Sequence[str]
    otlp_endpoint: str


def routes(store: Reader, renderer: Renderer, settings: WebSettings) -> list[Route]:
    """The routes of this page."""

    async def records(request: Request) -> Response:
        project = await known_project(store, request)
        filters = parse(request.query_params)
        query = filters.store_query(project.id, now())
        nothing: Page[Record] = Page(items=(), page=1, page_size=PAGE_SIZE, total=0)
        page = await store.records(query) if query else nothing
        context = RecordListPage(
            project=project,
            filters=filters,
            records=page.items,
            links=PageLinks.of(page),
            endpoints=await store.endpoints(project.id),
            methods=METHODS,
            ranges=tuple(RANGES),
            otlp_endpoint=settings.otlp_endpoint,
        )
        return renderer.page(request, "records.html", context)

    return [Route("/projects/{project_id}/records", records)]


async def known_project(store: Reader, request: Request) -> Project:
    """The project that the address names by its id.

    Raises:
        HTTPException: 404. A project key is not accepted: keys are secrets and addresses are shared.
    """
    project_id: str = request.path_params["project_id"]
    project = await store.project(project_id)
    if project is None or project.id != project_id:
        raise HTTPException(404)
    return project
