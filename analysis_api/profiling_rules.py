"""What a project's applications are to profile, as they ask for it themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

from analysis_api.answers import Answer, success
from analysis_api.errors import ApiError, Code, shown
from analysis_api.parameters import NoParameters
from analysis_api.shapes import rfc3339
from profile_store.contracts import Store
from profile_store.model import Project


class EndpointRuleBody(TypedDict):
    """For one endpoint, until `expires_at` if there is one. `slow_threshold` is in seconds."""

    sampling_rate: float | None
    slow_threshold: float | None
    expires_at: str | None


class RulesBody(TypedDict):
    """Null and empty mean that the application's own settings decide."""

    enabled: bool
    sampling_rate: float | None
    exclude_paths: list[str]
    include_patterns: list[str]
    endpoint_configs: dict[str, EndpointRuleBody]


def rules_routes(store: Store) -> APIRouter:
    """The project's rules, with an ETag for askers that come often."""
    router = APIRouter(prefix="/projects", tags=["Projects"])

    @router.get(
        "/{project_key}/config",
        response_model=Answer[RulesBody],
        summary="Rules for the project's applications",
        responses={304: {"description": "Nothing has changed since the ETag in If-None-Match"}},
    )
    async def read_rules(
        project_key: str,
        _: Annotated[NoParameters, Query()],
        if_none_match: Annotated[str, Header()] = "",
    ) -> Response:
        project = await store.project(project_key)
        # By key only: the id is public, and this route asks for nothing else.
        if project is None or project.id == project_key.lower():
            raise ApiError(Code.NOT_FOUND, "project_not_found", reference=shown(project_key))
        body = rules_body(project)
        etag = _etag(body)
        headers = {"etag": etag, "cache-control": "no-cache"}
        if _names(if_none_match, etag):
            return Response(status_code=304, headers=headers)
        return success(body, headers=headers)

    return router


def rules_body(project: Project) -> RulesBody:
    """The part of the project's configuration that concerns its applications."""
    config: Mapping[str, Any] = project.config
    return {
        "enabled": project.status == "active" and config.get("enabled") is not False,
        "sampling_rate": config.get("sampling_rate"),
        "exclude_paths": list(config.get("exclude_paths") or ()),
        "include_patterns": list(config.get("include_patterns") or ()),
        "endpoint_configs": {
            endpoint: _endpoint_rule(rule)
            for endpoint, rule in _mapping(config.get("endpoint_configs")).items()
        },
    }


def _endpoint_rule(rule: Mapping[str, Any]) -> EndpointRuleBody:
    expires_at = rule.get("expires_at")
    return {
        "sampling_rate": rule.get("sampling_rate"),
        "slow_threshold": rule.get("slow_threshold"),
        # As a date when a database held it.
        "expires_at": rfc3339(expires_at) if isinstance(expires_at, datetime) else expires_at,
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return {} if value is None else value


def _etag(body: RulesBody) -> str:
    text = json.dumps(body, sort_keys=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def _names(if_none_match: str, etag: str) -> bool:
    # RFC 9110 section 13.1.2: a list, or *; compared without the mark of weak tags.
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in given or "*" in given
