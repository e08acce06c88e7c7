"""`python -m profile_store` as an operator runs it: a process of its own, on a real database."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.__main__ import main
from profile_store.contracts import Store

KEY = re.compile(r"opk_[A-Za-z0-9_-]{32}\n")


@pytest.fixture
def command(
    mongodb_url: str,
    mongodb_database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Function (*arguments) -> exit code, stdout, stderr. In this process: starting one takes long."""
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("MONGODB_DATABASE", mongodb_database)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def ask(mongodb_url: str, mongodb_database: str) -> Callable[[Callable[[Store], Any]], Any]:
    """Function (store -> awaitable) -> its result."""

    def ask(question: Callable[[Store], Any]) -> Any:
        async def answer() -> Any:
            settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
            async with open_store(settings) as store:
                return await question(store)

        return asyncio.run(answer())

    return ask


def test_the_commands_are_described() -> None:
    # When somebody asks for help, without any database
    run = subprocess.run(
        [sys.executable, "-m", "profile_store", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # Then every command is named with what it does
    for name in (
        "create-project",
        "rotate-key",
        "revoke-key",
        "configure",
        "set-retention",
        "delete-project",
        "storage",
    ):
        assert re.search(rf"^ +{name}\s+\S", run.stdout, re.MULTILINE), name


def test_ctrl_c_while_the_database_is_waited_for_ends_a_command_with_one_line(interrupted) -> None:
    # When a command is interrupted that waits for the answer of the database
    code, told = interrupted("profile_store", "projects", MONGODB_URL="mongodb://{host}/")
    # Then it says so
    assert (code, told) == (
        130,
        "profile_store: interrupted; what is done is done, and it may be repeated\n",
    )


def test_a_key_is_made_rotated_and_revoked(command, ask) -> None:
    # When a project is made
    code, first, told = command("create-project", "shop", "--framework", "flask")
    # Then stdout is its key and nothing else, so that a script can take it
    assert (code, bool(KEY.fullmatch(first))) == (0, True)
    assert "cannot be shown again" in told
    # And a rotation gives another one, by the project's name
    code, second, told = command("rotate-key", "shop", "--overlap", "2h")
    assert (code, bool(KEY.fullmatch(second))) == (0, True)
    assert "2:00:00" in told
    assert set(ask(lambda store: store.projects_for_keys([first.strip(), second.strip()]))) == {
        first.strip(),
        second.strip(),
    }
    # And the list shows their beginnings only
    _, listed, _ = command("projects")
    assert first[:12] in listed
    assert "valid until" in listed
    assert first.strip() not in listed
    # And a revoked key is one no more
    assert command("revoke-key", "shop", first[:12])[0] == 0
    assert set(ask(lambda store: store.projects_for_keys([first.strip(), second.strip()]))) == {
        second.strip()
    }


def test_a_key_that_cannot_be_revoked_is_not_printed(command) -> None:
    # Given a key that has ended
    secret = command("create-project", "shop")[1].strip()
    command("revoke-key", "shop", secret)

    # When it is revoked once more
    code, out, told = command("revoke-key", "shop", secret)

    # Then no more of it is shown than always
    assert (code, out) == (1, "")
    assert f"'{secret[:12]}…' is no whole key of shop" in told
    assert secret[:13] not in told


def test_keys_that_begin_alike_are_named(command, monkeypatch) -> None:
    # Given two keys with the same first eight characters
    command("create-project", "shop")
    for secret in ("opk_AbCdEfGh" + "1" * 24, "opk_AbCdXyZ0" + "2" * 24):
        monkeypatch.setattr("profile_store.mongodb.project_keys.fresh_key", lambda secret=secret: secret)
        command("add-key", "shop")

    # When one of them is to be revoked by these
    code, _, told = command("revoke-key", "shop", "opk_AbCd")

    # Then the user sees what tells them apart
    assert code == 1
    assert "several keys of shop begin with 'opk_AbCd'" in told
    assert told.endswith(": opk_AbCdEfGh, opk_AbCdXyZ0\n")


def test_a_rotation_without_overlap_and_one_more_key(command, ask) -> None:
    first = command("create-project", "shop")[1].strip()
    second = command("rotate-key", "shop", "--overlap", "0")[1].strip()
    third = command("add-key", "shop")[1].strip()
    assert set(ask(lambda store: store.projects_for_keys([first, second, third]))) == {second, third}


def test_a_project_is_deleted_with_its_data(command, ask, mongodb_url, mongodb_database) -> None:
    # Given a project with a record
    command("create-project", "shop")
    project_id = ask(lambda store: store.project_for_service("shop")).id
    with MongoClient(mongodb_url) as client:
        records = client[mongodb_database].performance_records
        records.insert_one({"_id": b"r" * 24, "project_id": bson.ObjectId(project_id), "retention_days": 30})
        # When nobody can be asked, nothing happens
        code, _, told = command("delete-project", "shop")
        assert (code, "--yes" in told, records.count_documents({})) == (1, True, 1)
        # When it is meant, everything goes
        code, _, told = command("delete-project", "shop", "--yes")
        assert (code, records.count_documents({})) == (0, 0)
        assert "gone" in told
    assert ask(lambda store: store.project(project_id)) is None
    # And again by its id, as after a crash, is no mistake
    assert command("delete-project", project_id)[0] == 0
    assert command("delete-project", "shop", "--yes")[0] == 1


def test_a_retention_is_changed_for_stored_data_too(command, ask, mongodb_url, mongodb_database) -> None:
    command("create-project", "shop")
    project_id = ask(lambda store: store.project_for_service("shop")).id
    with MongoClient(mongodb_url, tz_aware=True) as client:
        start = datetime(2026, 11, 1, tzinfo=UTC)
        records = client[mongodb_database].performance_records
        records.insert_one(
            {
                "_id": b"r" * 24,
                "project_id": bson.ObjectId(project_id),
                "retention_days": 30,
                "expires_at": start + timedelta(days=3_000),
            }
        )
        assert command("set-retention", "shop", "31")[0] == 0
        assert records.find_one()["expires_at"] == start + timedelta(days=3_001)
    assert "kept 31 days" in command("projects")[1]


def test_rules_and_limits_are_set_shown_and_removed(command, ask) -> None:
    # Given a project with a retention of its own
    command("create-project", "shop")
    command("set-retention", "shop", "7")

    # When rules and a limit are set
    code, out, told = command(
        "configure",
        "shop",
        "sampling_rate=0.05",
        "max_spans_per_second=500",
        'endpoint_configs={"GET /a.b/{id}": {"sampling_rate": 1}}',
    )

    # Then they are stored beside what was there, and shown
    assert (code, "within 30 seconds" in told) == (0, True)
    expected = {
        "retention_days": 7,
        "sampling_rate": 0.05,
        "max_spans_per_second": 500,
        "endpoint_configs": {"GET /a.b/{id}": {"sampling_rate": 1}},
    }
    assert json.loads(out) == expected
    assert json.loads(command("configure", "shop")[1]) == expected

    # And when one is taken back, the others stay
    assert command("configure", "shop", "endpoint_configs=")[0] == 0
    del expected["endpoint_configs"]
    (project,) = ask(lambda store: store.projects()).items
    assert project.config == expected


def test_of_several_changes_with_a_wrong_one_none_is_made(command, ask) -> None:
    command("create-project", "shop")

    code, out, told = command("configure", "shop", "sampling_rate=0.5", "enabled=1")

    assert (code, out) == (1, "")
    assert "enabled is 1: use true or false" in told
    (project,) = ask(lambda store: store.projects()).items
    assert project.config == {}


def test_storage_is_shown_as_a_table(command) -> None:
    command("create-project", "shop")
    code, table, _ = command("storage")
    assert code == 0
    assert re.search(r"^projects +1 +\d+ B +[\d,]+ B +[\d,]+ B +[\d.]+ kB", table, re.MULTILINE)
    assert re.search(r"^performance_records\.recent +- +\d", table, re.MULTILINE)


def ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """What stdout gets from here on; it knows ASCII only."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", write_through=True))
    return shown


def test_a_name_that_the_terminal_lacks_is_escaped(command, monkeypatch) -> None:
    # Given a project with a name of any sender's
    command("create-project", "été")

    # When the projects are listed on a terminal that lacks its characters
    shown = ascii_terminal(monkeypatch)
    code = command("projects")[0]

    # Then they are shown as stderr would
    assert code == 0
    assert b"  \\xe9t\\xe9\n" in shown.getvalue()


def test_a_config_with_what_the_terminal_lacks_is_still_json(command, monkeypatch) -> None:
    # Given a project
    command("create-project", "shop")

    # When its config gets a character that the terminal lacks
    shown = ascii_terminal(monkeypatch)
    code = command("configure", "shop", 'exclude_paths=["/é"]')[0]

    # Then a script can read what is printed
    assert code == 0
    assert json.loads(shown.getvalue()) == {"exclude_paths": ["/é"]}


def test_output_that_nobody_reads_to_its_end_ends_silently(command) -> None:
    # Given a project, and a reader that has read enough
    command("create-project", "shop")
    reader, writer = os.pipe()
    os.close(reader)

    # When the projects are listed
    listing = subprocess.run(
        [sys.executable, "-m", "profile_store", "projects"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)

    # Then nobody is told of it but by the exit code
    assert (listing.returncode, listing.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("create-project", "a\nb"), 1, "control characters"),
        (("create-project", "x", "--framework", "rails"), 1, "framework is 'rails': use one of flask, "),
        (("create-project", "x", "--base-url", "ftp://x"), 1, "base_url is 'ftp://x': use "),
        (("rotate-key", "nobody"), 1, "no project has the name or id 'nobody'"),
        (("rotate-key", "nobody", "--overlap", "soon"), 2, "'soon' is no time"),
        (("add-key", "nobody"), 1, "nobody"),
        (("delete-project", "nobody", "--yes"), 1, "nobody"),
        (("set-retention", "nobody", "many"), 2, "many"),
        (("configure", "nobody", "enabled=true"), 1, "nobody"),
        (("configure", "nobody", "enabled"), 2, "'enabled' is no NAME=VALUE"),
        (
            ("configure", "nobody", "exclude_paths=/health"),
            2,
            "'/health' is not JSON: texts are in double quotes",
        ),
        (("storrage",), 2, "storrage"),
        ((), 2, "COMMAND"),
    ],
    ids=str,
)
def test_a_mistake_is_named_in_one_line(command, arguments, code, words) -> None:
    found, out, told = command(*arguments)
    assert (found, out) == (code, "")
    assert words in told
    assert "Traceback" not in told


def test_limits_of_a_project_are_named(command) -> None:
    command("create-project", "shop")
    for arguments, words in (
        (("set-retention", "shop", "0"), "1 to 3650"),
        (("rotate-key", "shop", "--overlap", "400d"), "0 to 365 days"),
        (("revoke-key", "shop", "opk_nothing"), "its keys: opk_"),
        (("create-project", "shop"), "exists already"),
    ):
        code, out, told = command(*arguments)
        assert (code, out) == (1, "")
        assert words in told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://user:secret@localhost", "MONGODB_URL must begin with"),
        ("", "MONGODB_URL is not set"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(command, monkeypatch, url, words):
    monkeypatch.setenv("MONGODB_URL", url)
    code, _, told = command("projects")
    assert (code, words in told) == (2, True)
    assert "secret" not in told


def test_a_deletion_asks_on_a_terminal(command, monkeypatch) -> None:
    command("create-project", "shop")

    class Terminal:
        def __init__(self, answer: str) -> None:
            self._answer = answer

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self._answer

    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert command("delete-project", "shop")[0] == 1
    monkeypatch.setattr(sys, "stdin", Terminal("shop\n"))
    assert command("delete-project", "shop")[0] == 0
