"""docs/api.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest

from all_in_one.settings import ServerSettings
from analysis_api.app import create_app
from analysis_api.call_shapes import MAX_NESTED_CALLS, MAX_NESTED_DEPTH
from analysis_api.errors import STATUS
from analysis_api.parameters import MAX_PAGE, MAX_PAGE_SIZE, NewProject, ProjectList, RecordList
from analysis_api.record_shape import RecordBody
from profile_store.contracts import Store

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_every_route_is_documented() -> None:
    for path, operations in create_app(cast("Store", object())).openapi()["paths"].items():
        for method in operations:
            assert f"| `{method.upper()} {path}` |" in TEXT


@pytest.mark.parametrize(("code", "status"), STATUS.items())
def test_every_code_is_documented_with_its_status(code: int, status: int) -> None:
    assert f"| {int(code)} | {status} |" in TEXT


def test_the_last_page_is_documented() -> None:
    assert f"up to page {MAX_PAGE:,}: " in TEXT


@pytest.mark.parametrize("name", ServerSettings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = ServerSettings.model_fields[name].default
    # As one writes it in the environment.
    written = str(default).lower() if isinstance(default, bool) else default
    shown = f"`{written}`" if written else "none"
    assert f"| `{name.upper()}` | {shown} |" in TEXT


@pytest.mark.parametrize("model", [ProjectList, RecordList, NewProject])
def test_every_parameter_is_documented(model: type[ProjectList | RecordList | NewProject]) -> None:
    assert [name for name in model.model_fields if f"`{name}`" not in TEXT] == []


def test_every_field_of_a_record_is_documented_unless_its_name_says_all() -> None:
    plain = {"id", "trace_id", "path", "status_code", "timestamp", "created_at"}
    assert [
        name for name in RecordBody.__annotations__ if f"`{name}`" not in TEXT and name not in plain
    ] == []


def test_the_limits_are_documented() -> None:
    assert f"**{MAX_NESTED_DEPTH} levels**" in TEXT
    assert f"**{MAX_NESTED_CALLS:,} longest**" in TEXT
    assert re.search(
        rf"`page_size` \(1 to {MAX_PAGE_SIZE}, default {RecordList.model_fields['page_size'].default}\)", TEXT
    )
