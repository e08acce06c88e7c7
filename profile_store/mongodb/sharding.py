"""How the collections lie on a sharded cluster; docs/adr/006-sharding.md argues each key.

`python -m profile_store.mongodb.sharding` prints what an administrator types into mongosh, once. It connects
to nothing: the commands need rights that no service of ours should have.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from profile_store.mongodb import indexes
from profile_store.settings import StoreSettings

BY_PROJECT_AND_ID: Mapping[str, int] = {"project_id": 1, "_id": 1}
"""A project lies together, and one that outgrows a shard is divided between its traces."""

BY_PROJECT_AND_TIME: Mapping[str, int] = {"project_id": 1, "start": 1}
"""The key of rollups, with which their unique indexes begin."""

SHARD_KEYS: Mapping[str, Mapping[str, int] | None] = {
    indexes.RECORDS: BY_PROJECT_AND_ID,
    indexes.PROFILES: BY_PROJECT_AND_ID,
    indexes.CHILD_SPANS: BY_PROJECT_AND_ID,
    indexes.ROLLUP_MINUTES: BY_PROJECT_AND_TIME,
    indexes.ROLLUP_HOURS: BY_PROJECT_AND_TIME,
    indexes.ROLLUP_TREES: BY_PROJECT_AND_TIME,
    indexes.ROLLUP_MARKS: {"project_id": 1, "kind": 1},
    indexes.ROLLUP_VERSIONS: None,
    indexes.PROJECTS: None,
    indexes.PROJECT_CHORES: None,
    indexes.NAME_LISTS: None,
}
"""The key of every collection. None: it stays on one shard, because it is small or needs unique indexes."""


def commands(database: str) -> Iterator[str]:
    """Lines for mongosh on a mongos. Running them again changes nothing."""
    for collection, key in SHARD_KEYS.items():
        if key is not None:
            shown = json.dumps(key)
            if "_id" in key:
                # A collection that holds something can only be sharded by a key that has an index, and no
                # index of ours begins with this one.
                yield f"db.getSiblingDB({json.dumps(database)}).{collection}.createIndex({shown});"
            yield f"sh.shardCollection({json.dumps(f'{database}.{collection}')}, {shown});"


def main() -> int:
    """Print the commands for MONGODB_DATABASE; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m profile_store.mongodb.sharding",
        description="Print what an administrator types into mongosh to shard the database that the "
        "environment variable MONGODB_DATABASE names. Connects to nothing. See docs/operations.md.",
    ).parse_args()
    try:
        database = StoreSettings().mongodb_database
    except ValidationError as raised:
        problem = raised.errors(include_url=False)[0]
        sys.stderr.write(f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in commands(database)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
