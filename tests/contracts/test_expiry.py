"""What expires is removed by the database itself, with nobody of ours running."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio

EXPIRING = {
    "performance_records",
    "profiles",
    "child_spans",
    "rollup_minutes",
    "rollup_hours",
    "rollup_trees",
    "rollup_versions",
}


async def test_the_database_removes_at_its_time_whatever_expires(store, database) -> None:
    # Given a store that was opened, its indexes by collection
    indexes = {name: database[name].list_indexes().to_list() for name in database.list_collection_names()}

    # Then each collection of data has one that removes a document at the moment it names, and no other has
    expiring = sorted(
        (name, dict(index["key"]), index["expireAfterSeconds"])
        for name, found in indexes.items()
        for index in found
        if "expireAfterSeconds" in index
    )
    assert expiring == [(name, {"expires_at": 1}, 0) for name in sorted(EXPIRING)]
