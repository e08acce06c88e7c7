"""`python -m profile_store.mongodb.set_up`: turns fresh servers into the database that MONGODB_URL describes.

It starts the replica set with the members that MONGODB_URL names, and gives its user the right to read and
write MONGODB_DATABASE, nothing else. It needs an administrator, MONGODB_ADMIN_URL, which no other service of
ours has. Running it again is harmless: it changes only what MONGODB_URL says otherwise, such as the password.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from profile_store.contracts import InvalidStoreSettings, StoreError
from profile_store.mongodb.errors import describe
from profile_store.mongodb.urls import FORM, readable
from profile_store.output import escape_what_stdout_lacks
from profile_store.settings import StoreSettings

LIMIT_SECONDS = 120.0

# The default of 10 s stalls writes for 11 s when a primary is killed, 2 s for 3 (docs/operations.md).
ELECTION_TIMEOUT_MS = 2_000

DESCRIPTION = """\
Start the replica set that MONGODB_URL names, and make its user, who may read and write one database. Running
it again is harmless.

Settings come from the environment:
  MONGODB_URL         what every service has: mongodb://user:password@host/?replicaSet=rs0&authSource=admin
  MONGODB_DATABASE    the database that the user may read and write
  MONGODB_ADMIN_URL   an administrator on one of the members

See docs/operations.md."""

_POLL_SECONDS = 0.5
_DEFAULT_PORT = 27017

# Error codes of the server.
_AUTHENTICATION_FAILED = 18
_NOT_YET_INITIALIZED = 94
_USER_EXISTS = 51003

Client = MongoClient[dict[str, Any]]


class SetUpSettings(StoreSettings):
    """Those of every service, and who may set up the servers."""

    mongodb_admin_url: SecretStr = Field(alias="MONGODB_ADMIN_URL")
    """An administrator on one of the members."""


def set_up(settings: SetUpSettings, *, limit_seconds: float = LIMIT_SECONDS) -> None:
    """Block until everything is as MONGODB_URL says.

    Raises:
        StoreError: it cannot be; the message says what to correct and holds no password.
    """
    if settings.mongodb_url is None:
        raise InvalidStoreSettings(
            "MONGODB_URL is not set: it names the members, the replica set and the user"
        )
    wanted = _parsed("MONGODB_URL", settings.mongodb_url)
    name, user, password = wanted["options"].get("replicaSet"), wanted["username"], wanted["password"]
    if not name or not user or not password:
        raise InvalidStoreSettings(
            f"MONGODB_URL must name user, password and replica set. It looks like {FORM}"
        )
    if wanted["options"].get("authSource", wanted["database"]) not in (None, "admin"):
        raise InvalidStoreSettings(
            "MONGODB_URL: the user is made in the database admin, set authSource=admin"
        )
    _parsed("MONGODB_ADMIN_URL", settings.mongodb_admin_url)
    members = [f"{host}:{port or _DEFAULT_PORT}" for host, port in wanted["nodelist"]]
    deadline = time.monotonic() + limit_seconds
    with _client(settings, directConnection=True) as client:
        _until_done(lambda: _start(client, name, members), deadline)
    with _client(settings, replicaSet=name) as client:
        _until_done(lambda: _grant(client, user, password, settings.mongodb_database), deadline)


def _parsed(variable: str, url: SecretStr) -> Any:
    with readable(variable, url):
        return parse_uri(url.get_secret_value())


def _client(settings: SetUpSettings, **options: Any) -> Client:
    with readable("MONGODB_ADMIN_URL", settings.mongodb_admin_url):
        return MongoClient(
            settings.mongodb_admin_url.get_secret_value(),
            serverSelectionTimeoutMS=1_000,
            socketTimeoutMS=10_000,
            **options,
        )


def _until_done(step: Callable[[], bool], deadline: float) -> None:
    while True:
        try:
            if step():
                return
            problem = "no member accepts writes yet"
        except OperationFailure as error:
            if error.code == _AUTHENTICATION_FAILED:
                raise StoreError(
                    "MONGODB_ADMIN_URL: MongoDB refuses this user and password. A volume keeps the password"
                    " that it was first started with."
                ) from None
            problem = describe(error)
        except PyMongoError as error:
            problem = describe(error)
        if time.monotonic() > deadline:
            raise StoreError(f"MongoDB did not get ready in time: {problem}")
        time.sleep(_POLL_SECONDS)


def _start(client: Client, name: str, members: list[str]) -> bool:
    """Start the replica set unless it runs; whether it has a primary."""
    try:
        client.admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code != _NOT_YET_INITIALIZED:
            raise
        config = {
            "_id": name,
            "members": [{"_id": number, "host": member} for number, member in enumerate(members)],
            "settings": {
                "electionTimeoutMillis": ELECTION_TIMEOUT_MS,
                "heartbeatIntervalMillis": 500,
                "heartbeatTimeoutSecs": 2,
                "catchUpTimeoutMillis": 1_000,
            },
        }
        client.admin.command("replSetInitiate", config)
    return "primary" in client.admin.command("hello")


def _grant(client: Client, user: str, password: str, database: str) -> bool:
    roles = [{"role": "readWrite", "db": database}]
    try:
        client.admin.command("createUser", user, pwd=password, roles=roles)
    except OperationFailure as error:
        if error.code != _USER_EXISTS:
            raise
        client.admin.command("updateUser", user, pwd=password, roles=roles)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up what the environment names; returns the exit code.

    1 it did not work, 2 a setting is wrong, 130 interrupted.
    """
    escape_what_stdout_lacks()
    argparse.ArgumentParser(
        prog="python -m profile_store.mongodb.set_up",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    try:
        settings = SetUpSettings()  # pyright: ignore[reportCallIssue] - the environment gives the address
        set_up(settings)
    except ValidationError as raised:
        problem = raised.errors(include_url=False, include_input=False)[0]
        sys.stderr.write(f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}\n")
        return 2
    except StoreError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2 if isinstance(problem, InvalidStoreSettings) else 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is done is done, and it may be repeated\n")
        return 130
    sys.stdout.write(f"the database {settings.mongodb_database} is ready\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
