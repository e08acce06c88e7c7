from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import greenlet
import pytest

from otel_pyinstrument.classification.greenlets import GreenletClassifier
from otel_pyinstrument.classification.tasks import TaskClassifier


def of_a_thread() -> object:
    return GreenletClassifier()


def of_a_task() -> object:
    async def main() -> object:
        return TaskClassifier.of_current_task(asyncio.get_running_loop(), lambda: False)

    return asyncio.run(main())


@pytest.mark.parametrize("make", [of_a_thread, of_a_task])
def test_no_greenlet_is_kept_alive(make: Callable[[], object], wait_until) -> None:
    # Given what a request on another thread leaves behind; greenlet crashes when that includes its objects
    kept: list[object] = []
    greenlets: list[weakref.ref[object]] = []

    def work() -> None:
        greenlets.append(weakref.ref(greenlet.getcurrent()))
        kept.append(make())

    # When the thread has ended
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    def is_gone() -> bool:
        greenlet.getcurrent()  # cleans up after threads that have ended
        gc.collect()
        return greenlets[0]() is None

    # Then its greenlet goes too, and we can tell
    wait_until(is_gone)
    assert kept[0].is_running() is False
    assert list(kept[0].calls()) == []
