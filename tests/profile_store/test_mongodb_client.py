from __future__ import annotations

import pytest

from profile_store import StoreSettings
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
