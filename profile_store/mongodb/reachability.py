"""Whether somebody's MongoDB can be used at all, asked once before anything else starts."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from profile_store.contracts import StoreError, StoreUnavailable
from profile_store.mongodb.errors import describe
from profile_store.settings import StoreSettings

_LIMIT_SECONDS = 4


def check_mongodb(settings: StoreSettings) -> None:
    """See `profile_store.check_mongodb`."""
    if settings.mongodb_url is None:
        raise StoreError("MONGODB_URL is not set.")
    limit_ms = _LIMIT_SECONDS * 1_000
    try:
        client: MongoClient[dict[str, Any]] = MongoClient(
            settings.mongodb_url.get_secret_value(), serverSelectionTimeoutMS=limit_ms, timeoutMS=limit_ms
        )
    except (PyMongoError, ValueError) as error:
        # The message of the driver may repeat the address with its password.
        raise StoreError(
            f"MONGODB_URL is not usable: the driver raised {type(error).__name__}. It looks like"
            " mongodb://user:password@host:27017/?replicaSet=rs0, with user and password percent-encoded."
        ) from None
    with client:
        try:
            client.admin.command("ping")
        except OperationFailure as error:
            raise StoreUnavailable(
                f"MONGODB_URL: MongoDB at {_hosts(client)} refuses us: {describe(error)}."
                " Correct user, password and authSource in it."
            ) from None
        except PyMongoError as error:
            raise StoreUnavailable(
                f"MONGODB_URL: no MongoDB that accepts writes answers at {_hosts(client)} within"
                f" {_LIMIT_SECONDS} s ({type(error).__name__}). Start it or correct the address,"
                " or unset MONGODB_URL to use an embedded one."
            ) from None


def _hosts(client: MongoClient[dict[str, Any]]) -> str:
    """Host and port of each server that the driver knows of: none before the name of mongodb+srv resolved."""
    servers = client.topology_description.server_descriptions()
    return ", ".join(sorted(f"{host}:{port}" for host, port in servers)) or "its name"
