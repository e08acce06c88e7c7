"""Memory and CPU time of the process, read cheaply at the start and the end of a request."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from otel_pyinstrument.guard import came_from_signal_handler

try:
    import resource
except ImportError:  # Windows
    resource = None

_STATM = b"/proc/self/statm"
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


def _reader_of_statm() -> Callable[[], bytes]:
    """Reads the file without giving the GIL away, as everything of `os` does.

    Where other threads compute, each of three calls that give it away makes the request wait for a switch
    interval, 5 ms, for nothing but being profiled.
    """
    try:
        import ctypes

        libc = ctypes.PyDLL(None)
        open_, read, close, text_type = libc.open, libc.read, libc.close, ctypes.c_char * 256
    except Exception as error:  # an interpreter that loads no libraries, or an audit hook that forbids it
        if came_from_signal_handler(error):
            raise
        return bytes

    def read_statm() -> bytes:
        # Opened each time: a file that stays open keeps telling of the parent after a fork.
        descriptor = open_(_STATM, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor < 0:
            return b""
        try:
            text = text_type()
            read(descriptor, text, len(text))
            return text.value
        finally:
            close(descriptor)

    return read_statm


_read_statm = _reader_of_statm() if sys.platform == "linux" else bytes


def resident_bytes() -> int | None:
    """Linux only: elsewhere no file or call of the standard library tells the present size."""
    fields = _read_statm().split()
    if len(fields) <= _RESIDENT_PAGES or not fields[_RESIDENT_PAGES].isdigit():
        return None
    return int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE")


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
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _BYTES_PER_KIBIBYTE
