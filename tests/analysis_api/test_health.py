from __future__ import annotations

from typing import Any


def test_a_living_process_with_a_database_is_alive_and_ready(api: Any) -> None:
    assert api.get("/health").json() == {"code": 0, "msg": "success", "data": {"status": "alive"}}
    assert api.get("/ready").json() == {"code": 0, "msg": "success", "data": {"status": "ready"}}
