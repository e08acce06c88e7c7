"""uvicorn as part of the receiver: on its loop, under its signals, with bounds that uvicorn lacks."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import uvicorn
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from collector_receiver.refusals import bad_request

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

MAX_HEAD_BYTES = 32_768
MAX_HEADERS = 200  # a short one takes 20 times its bytes in memory
MAX_PIPELINED = 2  # requests that wait hold their heads, and no exporter sends any
HEAD_SECONDS = 30.0
ANSWER_SECONDS = 30.0
PIECE_BYTES = 4_096
KEEP_ALIVE_SECONDS = 75  # longer than exporters pause between two batches

_TOO_MUCH_HEAD = f"request line and headers have more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)


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
    """Ends connections that would take without end: the parser keeps whatever comes as headers or trailers,
    any number of requests waits for its turn, an answer for its reader, and the process has few sockets.
    uvicorn's own time limit begins with an answer and ends with the next byte."""

    _bytes_without_progress = 0
    _between_requests = True
    _answered: RequestResponseCycle | None = None
    _head_limit: asyncio.TimerHandle | None = None
    _answer_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells only the last request; what another writes would be an error in the log.
        if self._answered is not None:
            self._answered.disconnected = True
        super().connection_lost(exc)
        self._lift_head_limit()
        self._lift_answer_limit()

    def data_received(self, data: bytes) -> None:
        if self._between_requests:
            self._limit_head()
            data = _without_upgrade(data)
        # The parser does not say what it has of a head, a trailer or a chunk's extension before that ends. So
        # bytes count that bring nothing: no request begins, no head ends, no byte of a body comes. An honest
        # chunk has one, so that even the smallest never add up. A piece that brings something is not counted.
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            self._bytes_without_progress += len(piece)
            super().data_received(piece)
            if self._bytes_without_progress >= MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse()
            if self.transport.is_closing():
                return

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._bytes_without_progress, self._between_requests = 0, False
        self._limit_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refuse()
            raise _Refused

    def on_headers_complete(self) -> None:
        parser: Any = self.parser
        if parser.should_upgrade():  # CONNECT, or a head that came in two
            self._refuse(400, grpc.StatusCode.INVALID_ARGUMENT, "another protocol is not spoken here")
            raise _Refused
        super().on_headers_complete()
        self._bytes_without_progress = 0
        self._lift_head_limit()
        if len(self.pipeline) > MAX_PIPELINED:
            self._refuse()
            raise _Refused

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._bytes_without_progress = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._between_requests = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit_closing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._lift_answer_limit()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._limit_closing()

    def _limit_head(self) -> None:
        if self._head_limit is None:
            self._head_limit = self.loop.call_later(HEAD_SECONDS, self._on_head_overdue)

    def _lift_head_limit(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None

    def _on_head_overdue(self) -> None:
        self._head_limit = None
        if self._answers_are_due():
            self._limit_head()
        else:
            self.transport.abort()

    def _limit_answer(self) -> None:
        if self._answer_limit is None:
            self._answer_limit = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def _lift_answer_limit(self) -> None:
        if self._answer_limit is not None:
            self._answer_limit.cancel()
            self._answer_limit = None

    def _limit_closing(self) -> None:
        """A transport that closes waits until everything is read, however little that is."""
        if self.transport.is_closing():
            self._limit_answer()

    def _answers_are_due(self) -> bool:
        """Whether there is a request, with its whole head, that has no answer yet."""
        return bool(self.cycle) and not self.cycle.response_complete

    def _refuse(
        self,
        status: int = 431,
        code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED,
        message: str = _TOO_MUCH_HEAD,
    ) -> None:
        """End the connection, by default for what is beyond a limit."""
        if self._answers_are_due():
            self.transport.abort()  # whose answer would it be?
        else:
            self._answer_and_close(status, Status(code=code.value[0], message=message))

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP is answered like every other mistake: with a Status, here in JSON."""
        if self.transport.is_closing():
            return  # `_Refused` comes here too
        status = Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=msg)
        status.details.add().Pack(bad_request(msg))
        self._answer_and_close(400, status)

    def _answer_and_close(self, code: int, status: Status) -> None:
        body = json_format.MessageToJson(status, indent=None).encode()
        self.transport.write(
            STATUS_LINE[code] + b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()
        self._limit_closing()


def _without_upgrade(data: bytes) -> bytes:
    """Bytes that begin a request, without its wish for another protocol, which nobody may rely on (RFC 9110).

    The parser would take the body for the beginning of that protocol. Java's HTTP client asks for HTTP/2 so.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\nnot-spoken:", head) + end + rest


class _Refused(Exception):
    """Stops the parser in the middle of what it reads; the connection has been ended."""


class _Flow(FlowControl):
    """Reads nothing while requests wait for their turn: the one that is answered has its body, and each
    time that uvicorn reads on for it, more of the others come."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()
