"""uvicorn as part of the receiver: on its loop, under its signals, with bounds that uvicorn lacks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import uvicorn
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from collector_receiver.refusals import bad_request

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

MAX_HEAD_BYTES = 262_144
HEAD_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 75  # longer than exporters pause between two batches


class HttpServer:
    """One listening HTTP server on the running loop; with `tls` it speaks nothing else."""

    def __init__(
        self, app: Application, listener: socket.socket, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._listener = listener
        self._config = uvicorn.Config(
            app,
            http=_BoundedProtocol,
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        self._server = _Server(self._config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when connections are accepted."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({self._serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            self._serving.result()

    async def stop(self, timeout_seconds: float) -> None:
        """Close the port, finish running requests, at most `timeout_seconds`. Safe to call again."""
        # uvicorn asks for whole seconds, but only hands them to asyncio.
        config: Any = self._config
        config.timeout_graceful_shutdown = timeout_seconds
        self._server.should_exit = True
        self._server.force_exit = timeout_seconds == 0
        if self._serving is not None:
            await asyncio.shield(self._serving)


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves signals to the receiver."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _BoundedProtocol(HttpToolsProtocol):
    """Ends connections whose request line and headers never end: the parser would keep all of them, and the
    process has few sockets. uvicorn's own time limit begins with an answer and ends with the next byte."""

    _reading_head = True
    _head_bytes = 0
    _between_requests = True
    _head_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lift_head_limit()

    def data_received(self, data: bytes) -> None:
        if self._between_requests:
            self._limit_head()
        super().data_received(data)
        if self._reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading_head, self._head_bytes, self._between_requests = True, 0, False
        self._limit_head()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._reading_head = False
        self._lift_head_limit()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._between_requests = True

    def _limit_head(self) -> None:
        if self._head_limit is None:
            self._head_limit = self.loop.call_later(HEAD_SECONDS, self._on_head_overdue)

    def _lift_head_limit(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None

    def _on_head_overdue(self) -> None:
        self._head_limit = None
        if self.cycle and not self.cycle.response_complete:
            self._limit_head()  # behind a request whose answer is still to come
        else:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP is answered like every other mistake: with a Status, here in JSON."""
        status = Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=msg)
        status.details.add().Pack(bad_request(msg))
        body = json_format.MessageToJson(status, indent=None).encode()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()
