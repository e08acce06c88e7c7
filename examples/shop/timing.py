"""What a shop itself measures, for the Server-Timing header that SHOP_SERVER_TIMING=1 adds."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Timings:
    """The clock of one request and its measured parts, in seconds."""

    started: float = field(default_factory=time.perf_counter)
    parts: dict[str, float] = field(default_factory=dict)

    def header(self) -> str:
        """The parts in milliseconds, in the order they ended; `total` is the last."""
        parts = self.parts | {"total": time.perf_counter() - self.started}
        return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in parts.items())


_timings: ContextVar[Timings | None] = ContextVar("timings", default=None)


def wanted() -> bool:
    """Whether the environment asks for the header."""
    return os.environ.get("SHOP_SERVER_TIMING") == "1"


def begin() -> Timings:
    """Start the clock of this request."""
    timings = Timings()
    _timings.set(timings)
    return timings


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Add the wall time of the block to this request's timings."""
    start = time.perf_counter()
    try:
        yield
    finally:
        if (timings := _timings.get()) is not None:
            timings.parts[name] = timings.parts.get(name, 0.0) + time.perf_counter() - start
