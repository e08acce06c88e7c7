"""The database of a run, when somebody else runs it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

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


def test_an_address_that_the_driver_cannot_read_shows_no_password(console, interrupts) -> None:
    told = problem_with("mongodb://root:hun/ter2@127.0.0.1:27017/", console, interrupts)

    assert told.startswith("MONGODB_URL is not usable")
    assert "ter2" not in told
