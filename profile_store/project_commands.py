"""The commands of `python -m profile_store` about projects. Results go to stdout, words to stderr."""

from __future__ import annotations

import argparse
import json
import re
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

from profile_store.contracts import (
    DEFAULT_KEY_OVERLAP,
    InvalidProject,
    ProjectExists,
    Store,
    TooManyKeys,
    UnknownProject,
)
from profile_store.model import IssuedKey, Project
from profile_store.project_keys import MIN_PREFIX_CHARACTERS, PREFIX_CHARACTERS, key_prefix
from profile_store.storage_table import storage_table

Command: TypeAlias = Callable[[Store, Namespace], Awaitable[None]]

_PAGE_SIZE = 100
_DURATION = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Refused(Exception):
    """The command cannot be done. One line with the remedy."""


def add_to(verbs: argparse._SubParsersAction[Any]) -> None:  # pyright: ignore[reportPrivateUsage] - its only name
    """Add the commands to a parser; `run` of what it parses is the command."""

    def verb(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    def verb_of_project(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = verb(name, run, text)
        added.add_argument("project", metavar="PROJECT", help="name or id of the project")
        return added

    verb("projects", list_projects, "list projects and what can be shown of their keys")
    create = verb("create-project", create_project, "make a project and print its key")
    create.add_argument("name", metavar="NAME", help="1 to 200 characters, one line, unique")
    create.add_argument("--description", default="", help="what it is")
    create.add_argument("--framework", default="other", help="flask, django, fastapi or other")
    create.add_argument("--base-url", default="", help="where it answers")
    verb_of_project("add-key", add_key, "print one more key; the others stay valid")
    rotate = verb_of_project("rotate-key", rotate_key, "print a new key; all others end after the overlap")
    rotate.add_argument(
        "--overlap",
        type=_duration,
        default=DEFAULT_KEY_OVERLAP,
        metavar="TIME",
        help="such as 30m, 24h (the default) or 7d; 0 ends the others at once",
    )
    revoke = verb_of_project("revoke-key", revoke_key, "end a key at once")
    revoke.add_argument("key", metavar="KEY", help="the whole key, or its beginning as `projects` shows it")
    retention = verb_of_project(
        "set-retention", set_retention, "change how long data is kept, stored data too"
    )
    retention.add_argument("days", type=int, metavar="DAYS", help="1 to 3650")
    configure_project = verb_of_project(
        "configure", configure, "change rules and limits of a project, and print its config"
    )
    configure_project.add_argument(
        "changes",
        nargs="*",
        type=_change,
        metavar="NAME=VALUE",
        help="the value as JSON, such as sampling_rate=0.05; without one the name is removed",
    )
    delete = verb_of_project("delete-project", delete_project, "delete a project with all its data")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    verb("upkeep", upkeep, "finish deletions and changes of retention")
    verb("storage", storage, "show what collections, indexes and projects take")


def _duration(text: str) -> timedelta:
    if text == "0":
        return timedelta(0)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no time: use a number with s, m, h or d, or 0")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _change(text: str) -> tuple[str, object]:
    name, is_one, value = text.partition("=")
    if not is_one:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no NAME=VALUE")
    try:
        return name, json.loads(value) if value else None
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(
            f"{name}: {value[:100]!r} is not JSON: texts are in double quotes, lists in [], objects in {{}}"
        ) from None


async def list_projects(store: Store, _: Namespace) -> None:
    """One line per project, one more per key."""
    number, total = 0, 1
    while number * _PAGE_SIZE < total:
        number += 1
        page = await store.projects(page=number, page_size=_PAGE_SIZE)
        total = page.total
        for project in page.items:
            _print(f"{project.id}  {project.status:8}  kept {project.retention_days} days  {project.name}")
            for key in project.keys:
                end = "" if key.expires_at is None else f", valid until {key.expires_at:%Y-%m-%d %H:%M} UTC"
                _print(f"    key {key.prefix}…  made {key.created_at:%Y-%m-%d}{end}")


async def create_project(store: Store, arguments: Namespace) -> None:
    """The key on stdout."""
    try:
        project = await store.create_project(
            arguments.name,
            description=arguments.description,
            framework=arguments.framework,
            base_url=arguments.base_url,
        )
    except (InvalidProject, ProjectExists) as problem:
        raise Refused(str(problem)) from problem
    _tell(f"project {project.name}, id {project.id}")
    _show_secret(project.project_key)


async def add_key(store: Store, arguments: Namespace) -> None:
    """The key on stdout."""
    project = await _project(store, arguments.project)
    await _issue(store.add_key(project.id))


async def rotate_key(store: Store, arguments: Namespace) -> None:
    """The key on stdout."""
    project = await _project(store, arguments.project)
    await _issue(store.rotate_key(project.id, overlap=arguments.overlap))
    if not arguments.overlap:
        _tell("All other keys end now; receivers notice within 10 seconds.")
    elif project.keys:
        _tell(f"The other keys end after {arguments.overlap} at the latest.")


async def revoke_key(store: Store, arguments: Namespace) -> None:
    """Nothing on stdout."""
    project = await _project(store, arguments.project)
    key: str = arguments.key.rstrip("…")
    if not await store.revoke_key(project.id, key):
        known = [each.prefix for each in project.keys]
        fitting = [prefix for prefix in known if prefix.startswith(key)]
        shown = repr(key if len(key) <= PREFIX_CHARACTERS else key_prefix(key) + "…")
        if len(fitting) > 1:
            raise Refused(
                f"several keys of {project.name} begin with {shown}, give more of the one that is meant: "
                f"{', '.join(fitting)}"
            )
        raise Refused(
            f"{shown} is no whole key of {project.name}, nor the first {MIN_PREFIX_CHARACTERS} to "
            f"{PREFIX_CHARACTERS} characters of one; its keys: {', '.join(known) or 'it has none'}"
        )
    _tell("The key has ended; receivers notice within 10 seconds.")


async def set_retention(store: Store, arguments: Namespace) -> None:
    """Nothing on stdout; waits until what is stored has its new expiry."""
    project = await _project(store, arguments.project)
    try:
        await store.set_retention(project.id, arguments.days)
    except ValueError as problem:
        raise Refused(str(problem)) from problem
    await upkeep(store, arguments)
    _tell(f"{project.name}: kept for {arguments.days} days. What is older now goes within a minute.")


async def configure(store: Store, arguments: Namespace) -> None:
    """The config as JSON on stdout."""
    project = await _project(store, arguments.project)
    changes: dict[str, object] = dict(arguments.changes)
    if changes:
        try:
            project = await store.configure(project.id, changes)
        except (InvalidProject, UnknownProject) as problem:
            raise Refused(str(problem)) from problem
    # What stdout would escape is escaped as JSON has it.
    ensure_ascii = sys.stdout.encoding.lower() != "utf-8"
    _print(json.dumps(project.config, indent=2, ensure_ascii=ensure_ascii, default=str))
    if changes:
        _tell("Receivers and applications notice within 30 seconds.")


async def delete_project(store: Store, arguments: Namespace) -> None:
    """Nothing on stdout; waits until the data is gone."""
    reference: str = arguments.project
    found = await _find(store, reference)
    # Without its project, an id may stand for a deletion that did not come to its end.
    if found is not None and not arguments.yes:
        _confirm(found)
    if not await store.delete_project(reference if found is None else found.id):
        raise _unknown(reference)
    await upkeep(store, arguments)
    _tell("The project and its data are gone.")


async def upkeep(store: Store, _: Namespace) -> None:
    """Steps until nothing is left to do at the moment."""
    removed = changed = 0
    while True:
        step = await store.upkeep()
        removed += step.removed_documents
        changed += step.changed_documents
        if removed or changed:
            _tell(f"documents removed: {removed:,}; with a new expiry: {changed:,}")
        if step.is_finished:
            return


async def storage(store: Store, _: Namespace) -> None:
    """The table on stdout."""
    for line in storage_table(await store.storage_report()):
        _print(line)


async def _project(store: Store, reference: str) -> Project:
    project = await _find(store, reference)
    if project is None:
        raise _unknown(reference)
    return project


async def _find(store: Store, reference: str) -> Project | None:
    if project := await store.project(reference):
        return project
    return (await store.projects_for_services([reference])).get(reference)


def _unknown(reference: str) -> Refused:
    return Refused(f"no project has the name or id {reference[:100]!r}; the command projects lists them")


async def _issue(issuing: Awaitable[IssuedKey]) -> None:
    try:
        _show_secret((await issuing).secret)
    except (TooManyKeys, UnknownProject, ValueError) as problem:
        raise Refused(str(problem)) from problem


def _show_secret(secret: str) -> None:
    _print(secret)
    _tell("Keep this key: only its hash is stored, so it cannot be shown again.")


def _confirm(project: Project) -> None:
    if not sys.stdin.isatty():
        raise Refused(f"{project.name} and all its data would be deleted: repeat with --yes")
    _tell(f"This deletes the project {project.name} with all its data. Type its name to go on:")
    if sys.stdin.readline().strip() != project.name:
        raise Refused("nothing was deleted: that is not its name")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
