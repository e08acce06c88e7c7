"""What is wrong with the settings of the database's setup; the setup itself runs in tests/deployment."""

from __future__ import annotations

import io
import socket
import sys

import pytest

from profile_store.contracts import StoreError
from profile_store.mongodb.set_up import SetUpSettings, main, set_up

ADMIN = "mongodb://root:hunter2@127.0.0.1:1/?authSource=admin"
URL = "mongodb://user:hunter2@127.0.0.1:1/?replicaSet=rs0"
FORM = (
    "It looks like mongodb://user:password@host:27017/?replicaSet=rs0, with user and password percent-encoded"
)
NO_FILE = "&tls=true&tlsCAFile=/nowhere/ca.pem"
NO_FILE_TOLD = (
    "is not usable: its file /nowhere/ca.pem cannot be read (No such file or directory). Correct the"
)
NO_PEM = f"&tls=true&tlsCAFile={__file__}"


@pytest.mark.parametrize(
    ("variables", "exit_code", "told"),
    [
        ({"MONGODB_ADMIN_URL": ""}, 2, "MONGODB_ADMIN_URL: Field required"),
        ({"MONGODB_DATABASE": "admin"}, 2, "MONGODB_DATABASE: is a system database"),
        ({"MONGODB_ADMIN_URL": "mongodb://root:hun/ter2@host/"}, 2, "MONGODB_ADMIN_URL is not usable"),
        (
            {"MONGODB_ADMIN_URL": "foo"},
            2,
            f"MONGODB_ADMIN_URL is not usable: the driver raised InvalidURI. {FORM}",
        ),
        ({"MONGODB_ADMIN_URL": f"{ADMIN}{NO_FILE}"}, 2, f"MONGODB_ADMIN_URL {NO_FILE_TOLD}"),
        (
            {"MONGODB_ADMIN_URL": f"{ADMIN}{NO_PEM}"},
            2,
            f"MONGODB_ADMIN_URL is not usable: tlsCAFile={__file__} holds",
        ),
        ({"MONGODB_URL": ""}, 2, "MONGODB_URL is not set"),
        ({"MONGODB_URL": "mongodb://u:hun/ter2@host/"}, 2, "MONGODB_URL is not usable"),
        ({"MONGODB_URL": f"{URL}{NO_FILE}"}, 2, f"MONGODB_URL {NO_FILE_TOLD}"),
        ({"MONGODB_URL": "mongodb://host/?replicaSet=rs0"}, 2, "MONGODB_URL must name user, password and"),
        ({"MONGODB_URL": "mongodb://u:hunter2@host/"}, 2, "MONGODB_URL must name user, password and replica"),
        ({"MONGODB_URL": f"{URL}&authSource=shop"}, 2, "MONGODB_URL: the user is made in the database admin"),
    ],
)
def test_the_variable_that_is_wrong_is_named_and_no_password_shown(
    variables, exit_code, told, monkeypatch, capsys
) -> None:
    for name, value in ({"MONGODB_ADMIN_URL": ADMIN, "MONGODB_URL": URL} | variables).items():
        monkeypatch.setenv(name, value)

    assert main([]) == exit_code

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(told)
    assert "ter2" not in output.err


def test_ctrl_c_ends_it_with_one_line(interrupted) -> None:
    # When it is interrupted while it waits for the answer of a server
    code, told = interrupted(
        "profile_store.mongodb.set_up",
        MONGODB_ADMIN_URL="mongodb://root:hunter2@{host}/",
        MONGODB_URL="mongodb://user:hunter2@{host}/?replicaSet=rs0",
    )
    # Then it says so
    assert (code, told) == (130, "interrupted; what is done is done, and it may be repeated\n")


def test_a_name_that_the_terminal_lacks_is_escaped(monkeypatch) -> None:
    # Given a terminal that knows ASCII only, and a database with another character
    monkeypatch.setattr("profile_store.mongodb.set_up.set_up", lambda _settings: None)
    for name, value in {"MONGODB_ADMIN_URL": ADMIN, "MONGODB_URL": URL, "MONGODB_DATABASE": "dätä"}.items():
        monkeypatch.setenv(name, value)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", write_through=True))

    # When it is set up
    code = main([])

    # Then the line says so
    assert (code, shown.getvalue()) == (0, b"the database d\\xe4t\\xe4 is ready\n")


def test_servers_that_do_not_answer_are_given_up_and_the_reason_told() -> None:
    # Given an address where nothing listens
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        host = f"127.0.0.1:{nobody.getsockname()[1]}"
    settings = SetUpSettings(
        MONGODB_ADMIN_URL=f"mongodb://root:hunter2@{host}/",
        MONGODB_URL=f"mongodb://u:hunter2@{host}/?replicaSet=r",
    )

    with pytest.raises(StoreError, match="did not get ready in time: ServerSelectionTimeoutError") as problem:
        set_up(settings, limit_seconds=0)

    assert "hunter2" not in str(problem.value)
