"""The API as one application, to be mounted under /api/v1."""

from __future__ import annotations

from fastapi import FastAPI

from analysis_api.answers import ErrorAnswer
from analysis_api.errors import error_handlers
from analysis_api.profiling_rules import rules_routes
from analysis_api.routes import project_routes, record_routes
from profile_store.contracts import Store


def create_app(store: Store) -> FastAPI:
    """The routes under /api/v1 over an open store. `guards.guarded` must stand before it."""
    app = FastAPI(
        title="otel-pyinstrument",
        version="1",
        summary="Projects, performance records and their call trees",
        # The usual documentation pages need the internet and an inline script.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=error_handlers(),
        responses={"default": {"model": ErrorAnswer, "description": "Any failure"}},
        # FastAPI would make spans of its own when the process has a tracer.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.include_router(project_routes(store))
    app.include_router(rules_routes(store))
    app.include_router(record_routes(store))
    return app
