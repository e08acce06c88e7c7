"""`python -m profile_store roll-up`: computes statistics anew from the records, or keeps doing so."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from profile_store.contracts import Store, StoreError
from profile_store.model import Project
from profile_store.project_commands import Refused
from profile_store.rollups.loop import keep_rolled_up

DEFAULT_WINDOW = timedelta(days=30)

# Requests have no other times, and all that is computed from these fits into a datetime.
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9998, 12, 31, tzinfo=UTC)

_PROJECTS_PER_PAGE = 100
_SETTLE_POLL_SECONDS = 1.0
_PROGRESS_EVERY_SECONDS = 5.0


class WrongArguments(Exception):
    """They make no sense together. One line."""


class CannotRollUp(StoreError):
    """Some statistics cannot be computed now. One line with the remedy."""


def add_to(commands: Any) -> None:
    """Add the command to the subparsers of `python -m profile_store`."""
    text = "compute statistics anew from the records (back-fill)"
    parser = commands.add_parser(
        "roll-up",
        help=text,
        allow_abbrev=False,
        description=f"{text}. May be interrupted and repeated at any time, while requests arrive and while "
        "servers compute statistics too.",
    )
    parser.add_argument("--project", metavar="PROJECT", help="name or id of one project (default: all)")
    parser.add_argument(
        "--from",
        dest="start",
        type=_time,
        metavar="TIME",
        help="such as 2026-11-21T10:30, in UTC unless it says otherwise (default: 30 days before --to)",
    )
    parser.add_argument("--to", dest="end", type=_time, metavar="TIME", help="default: now")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="compute nothing anew, but what arrives from now on, as the server does, until interrupted",
    )
    parser.set_defaults(run=roll_up)


async def roll_up(store: Store, arguments: argparse.Namespace) -> None:
    """Progress on stderr.

    Raises:
        WrongArguments, Refused, CannotRollUp, StoreUnavailable: a line for the user.
    """
    if arguments.follow:
        await _follow(store)
        return
    end = arguments.end or datetime.now(UTC)
    start = arguments.start or end - DEFAULT_WINDOW
    if start >= end:
        raise WrongArguments(f"--from {start:%Y-%m-%dT%H:%M} is not before --to {end:%Y-%m-%dT%H:%M}")
    # All before the first one is computed, so that they settle together instead of one after the other.
    back_fills = [
        await _requested(store, project, start, end) async for project in _projects(store, arguments.project)
    ]
    if arguments.project is not None and not back_fills:
        raise Refused(f"--project {arguments.project[:80]!r}: no project has this name or id")
    await _work_off(store, [back_fill for back_fill in back_fills if back_fill.requested])
    if failed := sum(len(back_fill.failed) for back_fill in back_fills):
        raise CannotRollUp(
            f"minutes or hours that failed: {failed:,}, see above; servers try them again, as does this"
        )


async def _follow(store: Store) -> None:
    """Until SIGINT or SIGTERM; a step that they interrupt is done again by whoever follows next."""
    following = asyncio.create_task(keep_rolled_up(store))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    _tell("statistics of what arrives are being computed until this is interrupted")
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def _projects(store: Store, wanted: str | None) -> AsyncIterator[Project]:
    page = 1
    while True:
        found = await store.projects(page=page, page_size=_PROJECTS_PER_PAGE)
        for project in found.items:
            if wanted is None or wanted in (project.id, project.name):
                yield project
        if page * _PROJECTS_PER_PAGE >= found.total:
            return
        page += 1


async def _requested(store: Store, project: Project, start: datetime, end: datetime) -> _BackFill:
    requested = await store.request_roll_up(project.id, start, end)
    _tell(f"{project.name}: {requested:,} minutes with requests")
    return _BackFill(project, requested)


async def _work_off(store: Store, back_fills: Sequence[_BackFill]) -> None:
    """Until each is finished. Of one that has settled as much as possible, while the others settle."""
    unfinished = list(back_fills)
    if unfinished:
        _tell("waiting some 10 seconds, until nobody adds to these minutes without notice")
    told = time.monotonic()
    while unfinished:
        for back_fill in unfinished:
            while await back_fill.step(store):
                if time.monotonic() - told >= _PROGRESS_EVERY_SECONDS:
                    told = time.monotonic()
                    _tell(f"{back_fill.project.name}: {back_fill.done} done")
            if back_fill.finished:
                _tell(f"{back_fill.project.name}: finished, {back_fill.done}")
        unfinished = [back_fill for back_fill in unfinished if not back_fill.finished]
        if unfinished:
            await asyncio.sleep(_SETTLE_POLL_SECONDS)


class _BackFill:
    """What was requested of one project, and what became of it."""

    def __init__(self, project: Project, requested: int) -> None:
        self.project = project
        self.requested = requested
        self.finished = False
        # What failed, and how much was done by then.
        self.failed: dict[str, int] = {}
        self._minutes = self._hours = 0

    @property
    def done(self) -> str:
        return f"{self._minutes:,} minutes and the call trees of {self._hours:,} hours"

    async def step(self, store: Store) -> bool:
        """Whether there is more to be done at once; otherwise it has `finished`, or the rest settles."""
        step = await store.roll_up(project_id=self.project.id)
        self._minutes += step.minutes
        self._hours += step.trees
        done = self._minutes + self._hours
        news = [failure for failure in step.failures if self.failed.get(failure.what) != done]
        for failure in news:
            self.failed[failure.what] = done
            problem = failure.error if isinstance(failure.error, StoreError) else repr(failure.error)
            _tell(f"{self.project.name}: {failure.what} failed: {problem}")
        if news:
            return True
        if step.failures:
            # It is being tried again already, and nothing was done in between.
            self.finished = True
            return False
        if step.waiting:
            return True
        # While requests arrive, the newest minutes never settle; whoever follows rolls those up.
        is_idle = not step.minutes and not step.trees
        self.finished = step.settling == step.put_off or (
            is_idle and self._minutes + step.put_off >= self.requested
        )
        return False


def _time(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no time such as 2026-11-21T10:30") from None
    given = given if given.tzinfo else given.replace(tzinfo=UTC)
    if not _EARLIEST <= given <= _LATEST:
        raise argparse.ArgumentTypeError(
            f"{text[:50]!r} is not between the years {_EARLIEST:%Y} and {_LATEST:%Y}"
        )
    return given


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
