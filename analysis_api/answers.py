"""The envelope around every answer, and how it becomes bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

Data = TypeVar("Data")


class Answer(TypedDict, Generic[Data]):
    """A success. `code` is 0."""

    code: int
    msg: str
    data: Data


class Pagination(TypedDict):
    """Where a page stands in its list. `total` is a lower bound when `total_is_exact` is false."""

    page: int
    page_size: int
    total: int
    total_is_exact: bool
    total_pages: int
    has_next: bool
    has_prev: bool


class Items(TypedDict, Generic[Data]):
    """One page of a list."""

    items: list[Data]
    pagination: Pagination


class FieldError(TypedDict):
    """What is wrong with one parameter or body field."""

    field: str
    msg: str


class ErrorData(TypedDict):
    """What helps to find the reason: the id that the server's log carries, and the fields at fault."""

    request_id: str
    errors: list[FieldError]


class ErrorAnswer(TypedDict):
    """A failure. `code` is one of the documented numbers, `msg` is in the client's language."""

    code: int
    msg: str
    data: ErrorData


def success(data: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that carries `data`."""
    return json_response({"code": 0, "msg": "success", "data": data}, status=status, headers=headers)


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that no cache keeps; dataclasses in it become objects.

    Lone surrogates, which UTF-8 cannot hold, become question marks.
    """
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=asdict)
    content = text.encode("utf-8", errors="replace")
    return Response(
        content,
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", **(headers or {})},
    )
