"""Fixtures that every part of the tests may use: a real MongoDB, or the reason why there is none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from profile_store.embedded_mongodb import EmbeddedMongoDBError, embedded_mongodb, find_mongod
from tests.unhurried import take_all_time

take_all_time()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-scale",
        action="store_true",
        help="run the long proofs at the scale that the product promises, minutes each, instead of in short",
    )


# Files that take minutes begin first, so that at the end of a run in several processes none waits for them.
LONGEST = (
    "integration/test_standard_collector",
    "all_in_one/test_whole_run",
    "otel_pyinstrument/command",
    "otel_pyinstrument/transport",
    "integration",
    "otel_pyinstrument/chaos",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "full_scale" in getattr(item, "fixturenames", ()):
            item.add_marker("full_scale")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    place = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((turn for turn, start in enumerate(LONGEST) if place.startswith(start)), len(LONGEST))


@pytest.fixture
def full_scale(request: pytest.FixtureRequest) -> bool:
    """Whether a long proof runs as long as the product promises (`make proof`), or in short."""
    return request.config.getoption("--full-scale")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests are marked `anyio` and run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def mongod_executable() -> Path:
    """The server's executable; skips without one, but fails where CI=true."""
    try:
        return find_mongod()
    except EmbeddedMongoDBError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mongodb_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MongoDB for the whole run: `MONGODB_URL`, else a server of our own."""
    if url := os.environ.get("MONGODB_URL"):
        yield url
        return
    request.getfixturevalue("mongod_executable")
    with embedded_mongodb(tmp_path_factory.mktemp("mongodb")) as server:
        yield server.url


@pytest.fixture
def mongodb_database(mongodb_url: str) -> Iterator[str]:
    """The name of a database that nobody else uses; dropped afterwards."""
    name = f"test_{secrets.token_hex(8)}"
    yield name
    with MongoClient[dict[str, object]](mongodb_url) as client:
        client.drop_database(name)
