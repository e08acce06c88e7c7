"""A platform that a test tells what to answer, good or bad."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


class Platform:
    """`answer` serves each request; `requests` keeps (path, If-None-Match, all headers)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None, dict[str, str]]] = []
        self.answer: Answer = lambda handler: handler.send_error(404)
        self.closing = threading.Event()
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                platform.requests.append((self.path, self.headers.get("If-None-Match"), headers))
                try:
                    platform.answer(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Be away: connections are refused."""
        self.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def rules(self, body: bytes, etag: str = '"1"') -> None:
        """From now on these are the rules, with proper 304s."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if handler.headers.get("If-None-Match") == etag:
                reply(304, b"", etag=etag)(handler)
            else:
                reply(200, body, etag=etag)(handler)

        self.answer = answer


def reply(status: int, body: bytes, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if status != 304:
            handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.close()


@pytest.fixture(name="reply")
def make_reply() -> Callable[..., Answer]:
    return reply
