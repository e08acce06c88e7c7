"""A thread that works for one request until the request ends."""

from __future__ import annotations

from types import FrameType

from otel_pyinstrument.classification import AlwaysItsTurn, Place
from otel_pyinstrument.classification.frame_chains import running_calls


class ThreadClassifier(AlwaysItsTurn):
    """Everything on the thread belongs to the request."""

    shares_thread = False

    def place(self, stack: list[str]) -> Place:
        return Place(stack[1:], True)

    def calls(self) -> list[FrameType]:
        return running_calls()

    def is_running(self) -> bool:
        return True
