"""Where the thread does not belong to one request, there is no profile rather than a wrong one."""

from __future__ import annotations

import asyncio
import sys

import greenlet
import pytest

from otel_pyinstrument.engine import Engine
from otel_pyinstrument.settings import Settings


@pytest.fixture
def engine() -> Engine:
    return Engine(Settings(rate=1))


def test_nothing_is_opened_on_an_event_loop(engine: Engine) -> None:
    async def handler() -> object:
        return engine.open()

    assert asyncio.run(handler()) is None
    assert sys.getprofile() is None


def test_nothing_is_opened_in_a_greenlet(engine: Engine) -> None:
    assert greenlet.greenlet(engine.open).switch() is None
    assert sys.getprofile() is None


def test_a_thread_with_asyncio_loaded_but_no_loop_is_fine(engine: Engine) -> None:
    segment = engine.open()

    assert segment is not None
    assert sys.getprofile() is not None
    engine.stop_all()
    assert sys.getprofile() is None
