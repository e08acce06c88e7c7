"""Calls an ASGI application as a server would, in this process, with its lifespan around the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from otel_pyinstrument.command.measuring.outcomes import Outcomes
from otel_pyinstrument.command.measuring.wsgi_client import Header

_LIFESPAN_SECONDS = 60.0
_VERSIONS = {"version": "3.0", "spec_version": "2.3"}


class LifespanFailed(Exception):
    """The application says that it could not start."""


async def requests_by_asgi(
    app: Any, paths: Iterable[str], headers: Iterable[Header], outcomes: Outcomes, *, concurrency: int
) -> None:
    """A GET for each path, `concurrency` at a time, each in a task of its own."""
    waiting = iter(paths)
    raw_headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in {"host": "localhost", **dict(headers)}.items()
    ]

    async def visit() -> None:
        for path in waiting:
            await asyncio.create_task(_request(app, path, raw_headers, outcomes))

    await asyncio.gather(*(visit() for _ in range(concurrency)))


async def _request(app: Any, path: str, headers: list[tuple[bytes, bytes]], outcomes: Outcomes) -> None:
    parts = urlsplit(path)
    statuses: list[int] = []
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        # The client stays connected: whoever waits for it to leave is cancelled in the end.
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(message["status"]))

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _VERSIONS,
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode("ascii", "replace"),
        "query_string": parts.query.encode("ascii", "replace"),
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 40_000),
        "server": ("localhost", 80),
        "state": {},
    }
    try:
        await app(scope, receive, send)
    except Exception as error:
        outcomes.error(path, error)
        return
    outcomes.status(path, statuses[-1] if statuses else 500)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncGenerator[None]:
    """Start the application up, and shut it down; nothing for one without lifespan events.

    Raises:
        LifespanFailed: it says so, or takes longer than a minute.
    """
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": _VERSIONS, "state": {}}
    running = asyncio.ensure_future(app(scope, incoming.get, outgoing.put))
    try:
        answer = await _told(incoming, outgoing, running, "lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise LifespanFailed(f"the application did not start: {answer.get('message', '')}")
        yield
        await _told(incoming, outgoing, running, "lifespan.shutdown")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _told(
    incoming: asyncio.Queue[dict[str, Any]],
    outgoing: asyncio.Queue[dict[str, Any]],
    running: asyncio.Future[Any],
    event: str,
) -> dict[str, Any] | None:
    """The application's answer to `event`; None when it has none, because it does not know the lifespan."""
    if running.done():
        return None
    await incoming.put({"type": event})
    answer = asyncio.ensure_future(outgoing.get())
    done, _ = await asyncio.wait(
        {answer, running}, timeout=_LIFESPAN_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if answer in done:
        return answer.result()
    answer.cancel()
    if not done:
        raise LifespanFailed(f"the application did not answer to {event} within {_LIFESPAN_SECONDS:g} s")
    return None
