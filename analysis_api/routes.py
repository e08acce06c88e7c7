"""The routes: each decodes the request, makes one call to the store, encodes the answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Body, Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from analysis_api.answers import Answer, Items, success
from analysis_api.errors import ApiError, Code, shown
from analysis_api.parameters import NewProject, NoParameters, OneRecord, ProjectList, RecordList
from analysis_api.record_shape import RecordBody, record_body
from analysis_api.shapes import (
    ProjectBody,
    ProjectSummary,
    RecordItem,
    page_items,
    project_body,
    project_summary,
    record_item,
)
from profile_store.contracts import InvalidProject, ProjectExists, Store
from profile_store.model import Project, RecordDetail, RecordQuery


class _PlainJsonRoute(APIRoute):
    """Refuses other bodies than plain JSON before FastAPI reads them; a dependency would come after that.

    Also what keeps other web pages out: a browser asks before it sends JSON to another origin.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_plain_json(request: Request) -> Response:
            if request.method == "POST" and not _is_plain_json(request):
                raise ApiError(Code.DATA_FORMAT, "not_json", status=415)
            return await handle(request)

        return handle_plain_json


def project_routes(store: Store) -> APIRouter:
    """Projects: list, make, look at one."""
    router = APIRouter(prefix="/projects", tags=["Projects"], route_class=_PlainJsonRoute)

    @router.get("", response_model=Answer[Items[ProjectSummary]], summary="Projects by name")
    async def list_projects(parameters: Annotated[ProjectList, Query()]) -> Response:
        page = await store.projects(
            page=parameters.page, page_size=parameters.page_size, status=parameters.status
        )
        return success(page_items(page, project_summary))

    @router.post(
        "",
        response_model=Answer[ProjectBody],
        status_code=201,
        summary="Make a project",
    )
    async def create_project(
        _: Annotated[NoParameters, Query()], new: Annotated[NewProject, Body()]
    ) -> Response:
        try:
            project = await store.create_project(
                new.name, description=new.description, framework=new.framework, base_url=new.base_url
            )
        except ProjectExists as raised:
            raise ApiError(Code.DUPLICATE_PROJECT_NAME, "project_exists", name=shown(new.name)) from raised
        except InvalidProject as raised:
            raise ApiError(Code.BAD_PARAMETER, "invalid_project", reason=shown(raised)) from raised
        body = project_body(project, await store.project_statistics(project.id))
        return success(body, status=201, headers={"location": f"/api/v1/projects/{project.id}"})

    @router.get("/{project_key}", response_model=Answer[ProjectBody], summary="A project by key or id")
    async def read_project(project_key: str, _: Annotated[NoParameters, Query()]) -> Response:
        project = await _project(store, project_key, Code.NOT_FOUND)
        return success(project_body(project, await store.project_statistics(project.id)))

    return router


def record_routes(store: Store) -> APIRouter:
    """Performance records: list, look at one with its call tree."""
    router = APIRouter(prefix="/performance/records", tags=["Records"])

    @router.get("", response_model=Answer[Items[RecordItem]], summary="Requests that match all filters")
    async def list_records(parameters: Annotated[RecordList, Query()]) -> Response:
        if parameters.start_time and parameters.end_time and parameters.start_time > parameters.end_time:
            raise ApiError(Code.BAD_PARAMETER, "bad_time_range")
        project = await _project(store, parameters.project_key, Code.INVALID_PROJECT_KEY)
        query = RecordQuery(project_id=project.id, **parameters.model_dump(exclude={"project_key"}))
        page = await store.records(query)
        return success(page_items(page, record_item))

    @router.get("/{record_id}", response_model=Answer[RecordBody], summary="A request with its call tree")
    async def read_record(record_id: str, parameters: Annotated[OneRecord, Query()]) -> Response:
        project = await _project(store, parameters.project_key, Code.INVALID_PROJECT_KEY)
        detail = await store.record(project.id, record_id)
        if detail is None:
            raise ApiError(
                Code.NOT_FOUND, "record_not_found", project=shown(project.name), record=shown(record_id)
            )
        _require_node(detail, parameters.node)
        # A tree of 200,000 nodes takes a second to encode: other requests go on meanwhile.
        return await to_thread.run_sync(_record_answer, project, detail, parameters)

    return router


def _record_answer(project: Project, detail: RecordDetail, parameters: OneRecord) -> Response:
    return success(record_body(project, detail, node=parameters.node, flat=parameters.format == "flat"))


def _require_node(detail: RecordDetail, node: int) -> None:
    node_count = detail.call_tree.node_count if detail.call_tree else 0
    if node and node >= node_count:
        raise ApiError(Code.NOT_FOUND, "node_not_found", node=node, node_count=node_count)


async def _project(store: Store, reference: str, code: Code) -> Project:
    project = await store.project(reference)
    if project is None:
        raise ApiError(code, "project_not_found", reference=shown(reference))
    return project


def _is_plain_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    return media_type == "application/json" and encoding == "identity"
