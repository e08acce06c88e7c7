from __future__ import annotations

import socket

import pytest

from profile_store import StoreSettings, open_store
from profile_store.contracts import StoreError, StoreUnavailable
from profile_store.mongodb import client as mongodb_client
from profile_store.mongodb.client import connect

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("options", "connect_seconds", "heartbeat_seconds"),
    [("", 3, 1), ("?connectTimeoutMS=20000&heartbeatfrequencyms=5000", 20, 5)],
    ids=["ours", "those of the address"],
)
async def test_a_silent_server_is_noticed_within_half_of_an_operations_time(
    options, connect_seconds, heartbeat_seconds
):
    async with connect(StoreSettings(MONGODB_URL=f"mongodb://127.0.0.1:1/{options}")) as client:
        assert client.options.pool_options.connect_timeout == connect_seconds
        assert client.options.heartbeat_frequency == heartbeat_seconds
        assert client.options.timeout == 8


async def problem_with(url: str) -> str:
    """What somebody is told who opens a store there."""
    with pytest.raises(StoreError) as problem:
        async with open_store(StoreSettings(MONGODB_URL=url)):
            pass
    assert isinstance(problem.value, StoreUnavailable)
    return str(problem.value)


async def test_a_database_that_is_away_is_named_with_the_remedy(monkeypatch):
    # Given two addresses where nothing listens
    monkeypatch.setattr(mongodb_client, "_OPERATION_TIMEOUT_MS", 200)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        hosts = sorted(f"127.0.0.1:{nobody.getsockname()[1]}" for nobody in (one, other))

    # When a store is opened there
    told = await problem_with(f"mongodb://root:hunter2@{','.join(hosts)}/?replicaSet=rs0")

    # Then a line names them and what to do, and not what would have been done first
    assert told == (
        f"MONGODB_URL: no MongoDB that accepts writes answers at {', '.join(hosts)} within 0.2 s "
        "(ServerSelectionTimeoutError). Start it or correct the address. "
        "What it says of replicaSet must fit the server too."
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("replicaSet=wrong", "replicaSet"),
        ("tls=true", "tls"),
        ("ssl=true&replicaSet=x", "ssl and replicaSet"),
    ],
)
async def test_a_server_that_runs_otherwise_than_the_address_says_is_named_with_what_must_fit(
    mongodb_url, options, named, monkeypatch
):
    # Given a server without TLS, in a replica set of another name
    monkeypatch.setattr(mongodb_client, "_OPERATION_TIMEOUT_MS", 500)
    host = mongodb_url.removeprefix("mongodb://").partition("/")[0].rpartition("@")[2]

    # When a store is opened there
    told = await problem_with(f"mongodb://root:hunter2@{host}/?{options}")

    # Then the line names the server of the address, and what may be the reason
    assert f"answers at {host} within 0.5 s" in told
    assert told.endswith(f"What it says of {named} must fit the server too.")
    assert "hunter2" not in told


@pytest.mark.integration
async def test_a_refused_password_is_told_and_not_shown(mongodb_url):
    host = mongodb_url.removeprefix("mongodb://").partition("/")[0].rpartition("@")[2]

    told = await problem_with(f"mongodb://root:hunter2@{host}/")

    assert told == (
        f"MONGODB_URL: MongoDB at {host} refuses us: OperationFailure 18 AuthenticationFailed. "
        "Correct user, password and authSource in it."
    )
