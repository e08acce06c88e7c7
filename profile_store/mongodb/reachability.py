"""Whether the MongoDB can be used at all, asked once before anything else starts."""

from __future__ import annotations

import re
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from profile_store.contracts import InvalidStoreSettings, StoreUnavailable
from profile_store.mongodb.client import Client
from profile_store.mongodb.errors import describe
from profile_store.mongodb.urls import hosts_of, readable
from profile_store.settings import StoreSettings

_LIMIT_SECONDS = 4


def check_mongodb(settings: StoreSettings) -> None:
    """See `profile_store.check_mongodb`."""
    if settings.mongodb_url is None:
        raise InvalidStoreSettings("MONGODB_URL is not set.")
    limit_ms = _LIMIT_SECONDS * 1_000
    with readable("MONGODB_URL", settings.mongodb_url):
        client: MongoClient[dict[str, Any]] = MongoClient(
            settings.mongodb_url.get_secret_value(), serverSelectionTimeoutMS=limit_ms, timeoutMS=limit_ms
        )
    with client:
        try:
            client.admin.command("ping")
        except PyMongoError as error:
            raise _unusable(
                client, settings, error, _LIMIT_SECONDS, ", or unset MONGODB_URL to use an embedded one"
            ) from None


async def wait_for_mongodb(client: Client, settings: StoreSettings) -> None:
    """Return when the database takes writes: before the first work, so that nobody is told of that instead.

    Raises:
        StoreUnavailable: naming host and port, never user and password, and the remedy.
    """
    try:
        await client.admin.command("ping")
    except PyMongoError as error:
        raise _unusable(client, settings, error, client.options.timeout or 0.0) from None


def _unusable(
    client: Client | MongoClient[dict[str, Any]],
    settings: StoreSettings,
    error: PyMongoError,
    seconds: float,
    otherwise: str = "",
) -> StoreUnavailable:
    """The cause is cut off on purpose: the driver's text tells all that it knows of each server."""
    url = settings.mongodb_url.get_secret_value() if settings.mongodb_url else ""
    # The driver forgets those that are no member of the replica set that it looks for.
    servers = {*hosts_of(url), *client.topology_description.server_descriptions()}
    # A name of mongodb+srv that did not resolve has no port, or is not there.
    hosts = ", ".join(sorted(f"{host}:{port}" if port else host for host, port in servers)) or "its name"
    if isinstance(error, OperationFailure) and not error.timeout:
        return StoreUnavailable(
            f"MONGODB_URL: MongoDB at {hosts} refuses us: {describe(error)}."
            " Correct user, password and authSource in it."
        )
    return StoreUnavailable(
        f"MONGODB_URL: no MongoDB that accepts writes answers at {hosts} within {seconds:g} s"
        f" ({type(error).__name__}). Start it or correct the address{otherwise}.{_must_fit(url)}"
    )


def _must_fit(url: str) -> str:
    """The driver names no reason when it finds servers and may use none of them."""
    options = dict.fromkeys(re.findall(r"[?&](replicaSet|tls|ssl)\w*=", url, re.IGNORECASE))
    return f" What it says of {' and '.join(options)} must fit the server too." if options else ""
