"""What clients may send: query parameters and bodies, checked before any handler runs.

Unknown names are refused: when a mistyped filter is ignored, the answer is to another question.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from profile_store.model import Framework, ProjectStatus
from profile_store.project_names import MAX_NAME_CHARACTERS, has_forbidden_characters, is_web_address

MAX_PAGE_SIZE = 100
# So far pages can be reached one by one; farther ones need a narrower filter.
MAX_PAGE = 10_000


def _status_filter(value: object) -> object:
    if value in ("ok", "failed"):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and 100 <= int(value[:4]) <= 599:
        return int(value)
    raise PydanticCustomError("status_filter", "must be ok, failed or an HTTP status from 100 to 599")


def _plausible_time(value: datetime) -> datetime:
    # Before the UTC conversion, which overflows at the ends of the calendar.
    if not 1970 < value.year < 9000:
        raise PydanticCustomError("time", "must be a time after 1970")
    return value.astimezone(UTC)


def _one_line(value: str) -> str:
    if has_forbidden_characters(value):
        raise PydanticCustomError("control_character", "must not contain control characters")
    return value


def _web_address(value: str) -> str:
    if _one_line(value) and not is_web_address(value):
        raise PydanticCustomError("web_address", "must begin with http:// or https://")
    return value


Time = Annotated[AwareDatetime, AfterValidator(_plausible_time)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
StatusFilter = Annotated[Literal["ok", "failed"] | int, BeforeValidator(_status_filter)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParameters(_Strict):
    """For addresses without query parameters."""


class Paging(_Strict):
    """Which part of a list."""

    page: int = Field(default=1, ge=1, le=MAX_PAGE)
    page_size: int = Field(default=20, ge=1, le=MAX_PAGE_SIZE)


class ProjectList(Paging):
    """Parameters of GET /projects."""

    status: ProjectStatus | None = None


class RecordList(Paging):
    """Parameters of GET /performance/records; all filters that are given must hold."""

    project_key: Text
    endpoint: Text | None = None
    method: Text | None = None
    status: StatusFilter | None = None
    version: Text | None = None
    environment: Text | None = None
    min_duration: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="Seconds")
    start_time: Time | None = None
    end_time: Time | None = None
    profiled: bool | None = None
    sort: Literal["-timestamp", "timestamp", "-duration", "duration"] = "-timestamp"


class OneRecord(_Strict):
    """Parameters of GET /performance/records/{id}."""

    project_key: Text
    node: int = Field(default=0, ge=0, le=2**31 - 1, description="call_id where the call tree begins")
    format: Literal["nested", "flat"] = "nested"


class NewProject(_Strict):
    """Body of POST /projects."""

    name: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_CHARACTERS),
        AfterValidator(_one_line),
    ]
    description: Annotated[str, StringConstraints(max_length=2_000)] = ""
    framework: Framework = "other"
    base_url: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_web_address)] = ""
