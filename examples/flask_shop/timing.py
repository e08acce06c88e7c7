"""What the shop itself measures: the Server-Timing header, off unless asked for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, Response, g


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Add the wall time of the block to this request's timings."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timings = g.setdefault("timings", {})
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start


def report(app: Flask) -> None:
    """Send the timings of each request, in milliseconds, in the order they ended; `total` is the last."""

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def add_header(response: Response) -> Response:
        timings = g.get("timings", {}) | {"total": time.perf_counter() - g.started}
        response.headers["Server-Timing"] = ", ".join(
            f"{name};dur={seconds * 1000:.3f}" for name, seconds in timings.items()
        )
        return response
