"""Turns what the driver raises into the contract's errors, without ever repeating a document."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError

from profile_store.contracts import StoreUnavailable, UnknownStoreError

_MAX_DETAIL_CHARACTERS = 300


@contextmanager
def unavailable_on_failure(action: str) -> Generator[None]:
    """Whatever the driver reports inside this block means: nothing is known, try again.

    The cause is cut off on purpose: the text of a `BulkWriteError` holds whole documents.
    """
    try:
        yield
    except PyMongoError as error:
        answered = isinstance(error, OperationFailure) and not error.timeout
        kind = UnknownStoreError if answered else StoreUnavailable
        raise kind(f"MongoDB could not {action}: {describe(error)}") from None


def describe(error: PyMongoError) -> str:
    """Name and code of an error; the text only for errors of the connection, whose texts hold no document."""
    name = type(error).__name__
    if isinstance(error, OperationFailure):
        code_name = (error.details or {}).get("codeName", "")
        return f"{name} {error.code or ''} {code_name}".strip()
    if isinstance(error, (ConnectionFailure, ConfigurationError)):
        # What follows is all that the driver knows of each server.
        text = str(error).partition(", Timeout: ")[0]
        return f"{name}: {text[:_MAX_DETAIL_CHARACTERS]}"
    return name
