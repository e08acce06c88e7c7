"""One request: its facts, flame graph data and call-tree rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_pyinstrument.call_tree import CallTree
from profile_store.contracts import Reader
from profile_store.model import Project, Record
from web.display import shown
from web.flame_data import FLAME_FORMAT, flame_json
from web.pages.records import known_project
from web.rendering import Renderer
from web.request_view import RequestView, request_view
from web.tree_table import MoreChildren, TreeRow, TreeTable

_PATH = "/projects/{project_id}/records/{record_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    """The contract of `record.html`. `tree_rows` is empty and `duration_us` 0 when there is no call tree."""

    project: Project
    record: Record
    tree_rows: Sequence[TreeRow | MoreChildren]
    duration_us: int
    node_count: int
    flame_format: int
    request: RequestView


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRowsFragment:
    """The contract of `_tree_rows.html`: rows of the call-tree table."""

    project_id: str
    record_id: str
    tree_rows: Sequence[TreeRow | MoreChildren]
    duration_us: int


def routes(store: Reader, renderer: Renderer) -> list[Route]:
    """The routes of this page and of the data that its script asks for."""

    async def record(request: Request) -> Response:
        project = await known_project(store, request)
        detail = await store.record(project.id, request.path_params["record_id"])
        if detail is None:
            raise HTTPException(404)
        tree = detail.call_tree
        table = await _table(tree, detail.record.endpoint) if tree else None
        context = RecordPage(
            project=project,
            record=detail.record,
            tree_rows=table.heavy_path() if table else (),
            duration_us=table.duration_us if table else 0,
            node_count=tree.node_count if tree else 0,
            flame_format=FLAME_FORMAT,
            request=await run_in_threadpool(request_view, detail),
        )
        return renderer.page(request, "record.html", context)

    async def flame(request: Request) -> Response:
        tree = await _known_tree(store, request)
        etag = f'"{request.path_params["record_id"]}-{FLAME_FORMAT}"'
        headers = {"ETag": etag, "Cache-Control": "private, max-age=31536000, immutable"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        body = await run_in_threadpool(flame_json, tree)
        return Response(body, media_type="application/json", headers=headers)

    async def tree_rows(request: Request) -> Response:
        node = _whole_number(request, "node")
        offset = _whole_number(request, "offset")
        tree = await _known_tree(store, request)
        table = await _table(tree, "")
        if node not in table:
            raise HTTPException(404)
        context = TreeRowsFragment(
            project_id=request.path_params["project_id"],
            record_id=request.path_params["record_id"],
            tree_rows=table.children(node, offset),
            duration_us=table.duration_us,
        )
        return renderer.page(request, "_tree_rows.html", context)

    return [
        Route(_PATH, record),
        Route(f"{_PATH}/flame.json", flame),
        Route(f"{_PATH}/tree", tree_rows),
    ]


async def _table(tree: CallTree, endpoint: str) -> TreeTable:
    return await run_in_threadpool(TreeTable, tree, shown(endpoint))


async def _known_tree(store: Reader, request: Request) -> CallTree:
    tree = await store.call_tree(request.path_params["project_id"], request.path_params["record_id"])
    if tree is None:
        raise HTTPException(404)
    return tree


def _whole_number(request: Request, name: str) -> int:
    text: Any = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(404)
    return int(text)
