from __future__ import annotations

import traceback

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from profile_store.contracts import StoreUnavailable
from profile_store.mongodb.errors import unavailable_on_failure

SECRET = "secret of a customer"


@pytest.mark.parametrize(
    "error",
    [
        BulkWriteError({"writeErrors": [{"index": 0, "code": 1, "op": {"note": SECRET}}]}),
        DuplicateKeyError(f"dup key: {{ name: {SECRET} }}", 11000, {"keyValue": {"name": SECRET}}),
        OperationFailure(SECRET, 14031, {"errmsg": SECRET, "codeName": "OutOfDiskSpace"}),
        PyMongoError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_drivers_text_does_not_leave_with_the_error(error):
    with (
        pytest.raises(StoreUnavailable, match=type(error).__name__) as caught,
        unavailable_on_failure("store"),
    ):
        raise error
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_lost_connection_names_the_server():
    with (
        pytest.raises(StoreUnavailable, match="could not store a batch: AutoReconnect: db-1:27017 closed"),
        unavailable_on_failure("store a batch"),
    ):
        raise AutoReconnect("db-1:27017 closed")


def test_a_server_that_is_away_is_named_without_what_the_driver_knows_of_it():
    with (
        pytest.raises(StoreUnavailable) as caught,
        unavailable_on_failure("roll up"),
    ):
        raise ServerSelectionTimeoutError("db-1:27017: refused, Timeout: 7.9s, Topology Description: <...>")
    assert str(caught.value) == "MongoDB could not roll up: ServerSelectionTimeoutError: db-1:27017: refused"


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), unavailable_on_failure("store"):
        raise ZeroDivisionError
