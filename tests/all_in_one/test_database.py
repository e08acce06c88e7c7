"""The database of a run: one that somebody else runs, or the embedded one."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from all_in_one.console import CLEAR_LINE, Console
from all_in_one.database import running_database
from profile_store import StoreSettings
from profile_store.contracts import StoreError


def problem_with(url: str, console, interrupts) -> str:
    """What the user is told about this MONGODB_URL."""
    with (
        pytest.raises(StoreError) as problem,
        running_database(StoreSettings(MONGODB_URL=url), console, interrupts, data=Path("unused")),
    ):
        pass
    return str(problem.value)


def test_a_server_that_accepts_but_never_answers_is_given_up_soon(console, interrupts, output) -> None:
    # Given something that takes connections and says nothing
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begin = time.monotonic()

        # When it is named as the database
        told = problem_with(
            f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=600000", console, interrupts
        )

    # Then it is named long before the driver would give up, and not called ready
    assert told.startswith(
        f"MONGODB_URL: no MongoDB that accepts writes answers at 127.0.0.1:{port} within 4 s"
    )
    assert time.monotonic() - begin < 30
    assert output.getvalue() == ""


@pytest.mark.integration
def test_a_refused_password_is_told_and_not_shown(console, interrupts, mongodb_url) -> None:
    host = mongodb_url.removeprefix("mongodb://").partition("/")[0].rpartition("@")[2]

    told = problem_with(f"mongodb://root:hunter2@{host}/", console, interrupts)

    assert told.startswith(f"MONGODB_URL: MongoDB at {host} refuses us: OperationFailure 18 Auth")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            "mongodb://u:hunter2@h:99999/",
            "the driver raised ValueError. It looks like mongodb://user:password@host:27017/?replicaSet=rs0,"
            " with user and password percent-encoded and a port of at most 65535.",
        ),
        (
            "mongodb://u:hunter2@h/?tlsCAFile=/nowhere/ca",
            "its file /nowhere/ca cannot be read (No such file or",
        ),
        (f"mongodb://u:hunter2@h/?tlsCAFile={__file__}", f"tlsCAFile={__file__} holds nothing usable in PEM"),
        (
            f"mongodb://u:hunter2@h/?tlscertificatekeyfile={__file__}",
            f"tlscertificatekeyfile={__file__} holds nothing usable in PEM",
        ),
    ],
    ids=["port", "no file", "no certificate", "no key"],
)
def test_what_cannot_be_used_of_an_address_is_told_with_the_remedy(console, interrupts, url, told) -> None:
    problem = problem_with(url, console, interrupts)

    assert problem.startswith(f"MONGODB_URL is not usable: {told}")
    assert "hunter2" not in problem


def test_an_address_that_the_driver_cannot_read_shows_no_password(console, interrupts) -> None:
    told = problem_with("mongodb://root:hun/ter2@127.0.0.1:27017/", console, interrupts)

    assert told.startswith("MONGODB_URL is not usable")
    assert "ter2" not in told


@pytest.mark.integration
def test_a_terminal_sees_that_the_database_is_looked_for(terminal, interrupts, mongodb_url, tmp_path) -> None:
    settings = StoreSettings(MONGODB_URL=mongodb_url)

    with running_database(settings, Console(terminal), interrupts, data=tmp_path):
        looking, found = terminal.getvalue().split(CLEAR_LINE)

    assert looking == "  mongodb    looking for the one that MONGODB_URL names ..."
    assert found == "  mongodb    the one that MONGODB_URL names\n"


@pytest.mark.integration
def test_a_terminal_sees_that_the_embedded_database_is_starting_and_stopping(
    terminal, interrupts, mongod_executable, tmp_path, monkeypatch
) -> None:
    # When a run has a database of its own
    monkeypatch.delenv("MONGODB_URL", raising=False)
    with running_database(StoreSettings(), Console(terminal), interrupts, data=tmp_path):
        at_start = terminal.getvalue()

    # Then both waits were told while they lasted
    assert at_start.startswith(f"  mongodb    starting {mongod_executable}")
    assert "mongodb    stopping ..." in terminal.getvalue().removeprefix(at_start)
