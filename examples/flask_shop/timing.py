"""The Server-Timing header."""

from flask import Flask, Response, g

from shop import timing


def report(app: Flask) -> None:
    """Send the timings of each request."""

    @app.before_request
    def start() -> None:
        g.timings = timing.begin()

    @app.after_request
    def add_header(response: Response) -> Response:
        response.headers["Server-Timing"] = g.timings.header()
        return response
