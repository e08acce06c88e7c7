"""Whose time a sample is: of the request's own execution unit, or of others that share its thread.

One strategy for each kind of execution unit: a thread, an asyncio task, a greenlet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from otel_pyinstrument.guard import came_from_signal_handler

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_pyinstrument.loop_steps import Stepped

SameRequest: TypeAlias = "Callable[[Span], bool]"
"""Whether a span, which is the current one somewhere, belongs to the request."""

AWAIT = "[await]\0\x000"
"""The identifier of a leaf: the unit was suspended here. In the format of the sampler's entries."""


class Place(NamedTuple):
    """Where the time until a sample goes: a stack that starts at the outermost call of the unit.

    `ours`: the request itself used the thread, so its CPU time is the request's too. `nobodys`: no unit
    did, but the event loop between their turns.
    """

    stack: list[str]
    ours: bool
    nobodys: bool = False


class Classifier(Protocol):
    """Knows one execution unit: the one that was running where the classifier was made.

    All methods run on the unit's thread, `place` inside the profile hook: fast, without blocking.
    """

    def place(self, stack: list[str]) -> Place:
        """Where a sample belongs; `stack` is the sampler's, with the thread before the outermost call."""
        ...

    def calls(self) -> Sequence[FrameType]:
        """The calls of the unit, outermost first, up to where it runs or is suspended. Empty if it ended."""
        ...

    def is_running(self) -> bool:
        """Whether it is this unit that is running on its thread now."""
        ...

    def is_in_turn(self) -> bool:
        """Whether a turn of this unit goes on, even if another one runs inside it, as eager tasks do."""
        ...

    def has_step_alone(self) -> bool:
        """Whether what runs now was called by the event loop, and not by a task, as eager tasks are."""
        ...

    @property
    def shares_thread(self) -> bool:
        """Whether other requests take turns on the same thread."""
        ...

    @property
    def knows_turns(self) -> bool:
        """Whether `follow` tells when it is the unit's turn, so that the hook is there only then."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether the unit can never run again."""
        ...

    def follow(self, stepped: Stepped, max_duration_seconds: float) -> Callable[[], None]:
        """From now on tell `stepped` of the unit's turns; the result ends that, on any thread."""
        ...


class AlwaysItsTurn:
    """For units whose turns nobody tells of."""

    knows_turns = False
    is_gone = False

    def is_in_turn(self) -> bool:
        return True

    def has_step_alone(self) -> bool:
        return False

    def follow(self, stepped: Stepped, max_duration_seconds: float) -> Callable[[], None]:
        return lambda: None


def is_loaded(library: str) -> bool:
    """Whether it can be used. None stands for a module whose import is forbidden."""
    return sys.modules.get(library) is not None


def load_strategies() -> None:
    """Load those of libraries that are loaded already: the first profile would do it in a request."""
    for library, strategy in (("asyncio", "tasks"), ("greenlet", "greenlets")):
        if is_loaded(library):
            import_module(f"{__name__}.{strategy}")


def classifier_of_running_unit(same_request: SameRequest) -> Classifier | None:
    """The strategy for what is running now; None when it is no unit that could be told from others."""
    if is_loaded("trio") and _is_in_trio():
        return None
    if is_loaded("asyncio"):
        from otel_pyinstrument.classification.tasks import TaskClassifier, running_loop

        loop = running_loop()
        if loop is not None:
            return TaskClassifier.of_current_task(loop, same_request)
    if is_loaded("greenlet"):
        from otel_pyinstrument.classification.greenlets import GreenletClassifier

        return GreenletClassifier()
    from otel_pyinstrument.classification.threads import ThreadClassifier

    return ThreadClassifier()


def _is_in_trio() -> bool:
    """Whether this thread runs tasks of trio: they take turns as asyncio's do, and nobody tells of these."""
    try:
        sys.modules["trio"].lowlevel.current_task()
    except Exception as error:  # it does not run here, or is being imported
        if came_from_signal_handler(error):
            raise
        return False
    return True
