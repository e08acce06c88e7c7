"""Memory and CPU time of the process, read cheaply at the start and the end of a request."""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from otel_pyinstrument.guard import came_from_signal_handler

_STATM = "/proc/self/statm"
_RESIDENT_PAGES = 1
_BYTES_PER_KIBIBYTE = 1024


class Usage(NamedTuple):
    """Bytes and seconds of the whole process; None where the platform does not tell, or nobody traces.

    `traced` is what `tracemalloc` counts, when the user has switched it on.
    """

    rss: int | None
    peak_rss: int | None
    traced: int | None
    cpu_seconds: float
    wall_seconds: float


def usage() -> Usage:
    """The figures of this moment; 10 us on Linux."""
    return Usage(
        resident_bytes(), _peak_resident_bytes(), traced_bytes(), time.process_time(), time.perf_counter()
    )


def memory_bytes() -> int | None:
    """What Python has allocated when `tracemalloc` is on, else the resident memory of the process."""
    traced = traced_bytes()
    return resident_bytes() if traced is None else traced


def resident_bytes() -> int | None:
    """Linux only: elsewhere no file or call of the standard library tells the present size."""
    try:
        # Opened each time: a file that stays open keeps telling of the parent after a fork.
        descriptor = os.open(_STATM, os.O_RDONLY)
    except OSError as error:
        if came_from_signal_handler(error):
            raise
        return None
    try:
        fields = os.read(descriptor, 256).split()
        return int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError) as error:
        if came_from_signal_handler(error):
            raise
        return None
    finally:
        os.close(descriptor)


def traced_bytes() -> int | None:
    """None unless the user traces: tracing would cost several times the work itself."""
    tracemalloc = sys.modules.get("tracemalloc")
    if tracemalloc is None or not tracemalloc.is_tracing():
        return None
    return tracemalloc.get_traced_memory()[0]


def available_processors() -> int:
    """How many processors this process may use; at least 1."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _peak_resident_bytes() -> int | None:
    """The highest resident size since the process began."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _BYTES_PER_KIBIBYTE
