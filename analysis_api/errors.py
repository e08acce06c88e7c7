"""The one shape of every failure: code, sentence in the client's language, HTTP status, request id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, cast

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from analysis_api.answers import ErrorAnswer, FieldError, json_response
from analysis_api.messages import MESSAGES, Language, message, preferred_language
from profile_store.contracts import StoreUnavailable

_SHOWN_CHARACTERS = 80
_SHOWN_FIELDS = 10
_RETRY_AFTER_SECONDS = 5


class Code(IntEnum):
    """Numbers that clients switch on; each has one usual HTTP status in `STATUS`."""

    BAD_PARAMETER = 1000
    NOT_FOUND = 1001
    FORBIDDEN = 1003
    INTERNAL = 1005
    DATABASE = 1006
    DATA_FORMAT = 1009
    INVALID_PROJECT_KEY = 2001
    DUPLICATE_PROJECT_NAME = 2002
    TOO_LARGE = 3002


STATUS: dict[Code, int] = {
    Code.BAD_PARAMETER: 422,
    Code.NOT_FOUND: 404,
    Code.FORBIDDEN: 403,
    Code.INTERNAL: 500,
    Code.DATABASE: 503,
    Code.DATA_FORMAT: 400,
    Code.INVALID_PROJECT_KEY: 404,
    Code.DUPLICATE_PROJECT_NAME: 409,
    Code.TOO_LARGE: 413,
}


class ApiError(HTTPException):
    """A failure to tell the client. `values` fill the message `key`; pass foreign text through `shown`.

    An HTTPException, because FastAPI lets only those pass while it reads a body.
    """

    def __init__(
        self,
        code: Code,
        key: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        fields: Sequence[Mapping[str, Any]] = (),
        **values: object,
    ) -> None:
        super().__init__(STATUS[code] if status is None else status, key, headers)
        self.code = code
        self.key = key
        self.fields = fields
        self.values = values


def shown(value: object) -> str:
    """Text from outside, quoted for a message: cut, and without characters that could break out of a line."""
    text = str(value)
    cut = text[:_SHOWN_CHARACTERS]
    safe = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)
    return f'"{safe}{"..." if len(text) > len(cut) else ""}"'


def error_response(scope: Scope, error: ApiError) -> Response:
    """The answer for `error` to the request of `scope`."""
    language = preferred_language(Headers(scope=scope).get("accept-language", ""))
    request_id = request_id_of(scope)
    errors = [_field_error(field, language) for field in error.fields[:_SHOWN_FIELDS]]
    values = dict(error.values, request_id=request_id)
    if errors:
        values["problems"] = "; ".join(f"{item['field']} {item['msg']}" for item in errors)
    body: ErrorAnswer = {
        "code": int(error.code),
        "msg": message(error.key, language, **values),
        "data": {"request_id": request_id, "errors": errors},
    }
    headers = {"content-language": language, "vary": "accept-language", **(error.headers or {})}
    return json_response(body, status=error.status_code, headers=headers)


def request_id_of(scope: Scope) -> str:
    """The id that `guards.RequestId` gave the request; empty when the application runs without it."""
    state = cast("dict[str, Any]", scope.get("state") or {})
    return str(state.get("request_id", ""))


def error_handlers() -> dict[Any, Callable[[Request, Any], Any]]:
    """Exception handlers for a FastAPI or Starlette application; nothing is left to their own error pages."""

    # async: Starlette would run plain functions in a thread.
    async def answer(request: Request, raised: Exception) -> Response:
        return error_response(request.scope, _api_error(request, raised))

    return {
        HTTPException: answer,
        RequestValidationError: answer,
        StoreUnavailable: answer,
        Exception: answer,
    }


def _api_error(request: Request, raised: Exception) -> ApiError:
    match raised:
        case ApiError():
            return raised
        case RequestValidationError():
            return _validation_error(raised)
        case HTTPException():
            return _http_error(request, raised)
        case StoreUnavailable():
            return ApiError(
                Code.DATABASE, "store_unavailable", headers={"retry-after": str(_RETRY_AFTER_SECONDS)}
            )
        case _:
            return ApiError(Code.INTERNAL, "internal_error")


def _http_error(request: Request, raised: HTTPException) -> ApiError:
    match raised.status_code:
        case 404:
            return ApiError(Code.NOT_FOUND, "route_not_found", path=shown(request.url.path))
        case 405:
            return ApiError(
                Code.BAD_PARAMETER,
                "method_not_allowed",
                status=405,
                headers=raised.headers,
                method=shown(request.method),
            )
        case 400:  # FastAPI's word for a body that is no UTF-8, too deep, or has absurd numbers
            return ApiError(Code.DATA_FORMAT, "unreadable_body")
        case status:
            code = Code.BAD_PARAMETER if status < 500 else Code.INTERNAL
            return ApiError(
                code, "http_error", status=status, headers=raised.headers, reason=shown(raised.detail)
            )


def _validation_error(raised: RequestValidationError) -> ApiError:
    fields = cast("Sequence[Mapping[str, Any]]", raised.errors())
    for field in fields:
        if field["type"] == "json_invalid":
            return ApiError(
                Code.DATA_FORMAT, "bad_json", reason=shown(field["ctx"]["error"]), position=field["loc"][-1]
            )
    return ApiError(Code.BAD_PARAMETER, "bad_parameters", fields=fields)


def _field_error(field: Mapping[str, Any], language: Language) -> FieldError:
    # The first part of the location is where the field stood: query, path, body.
    location = [str(part) for part in field["loc"][1:]] or [str(field["loc"][0])]
    kind = str(field["type"])
    if kind.startswith(("datetime_", "timezone_")):
        kind = "time"
    key = f"field.{kind}" if f"field.{kind}" in MESSAGES else "field.other"
    said = message(key, language, **cast("dict[str, object]", field.get("ctx") or {}))
    return {"field": shown(".".join(location))[1:-1], "msg": said}
