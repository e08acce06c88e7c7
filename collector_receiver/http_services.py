"""OTLP/HTTP: reads the body, calls `Ingest`, encodes the answer. Status codes are chosen only here.

A plain ASGI application: three paths need no framework, which would cost as much as the server itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from collector_receiver.admission import MIN_WEIGHT_BYTES
from collector_receiver.arrivals import Arrivals
from collector_receiver.cors import Cors, Headers
from collector_receiver.counters import Answered
from collector_receiver.grpc_services import PROJECT_KEY_METADATA
from collector_receiver.http_body import ClientGone, IncomingBody, Receive, read_body
from collector_receiver.ingest import Ingest
from collector_receiver.refusals import (
    IngestRefused,
    RateLimited,
    TooLarge,
    TryAgain,
    Undecodable,
    bad_request,
)
from collector_receiver.signals import LOGS, METRICS, TRACES, Encoding, Signal
from collector_receiver.status_pages import PATHS as STATUS_PATHS
from collector_receiver.status_pages import StatusPages

READ_SECONDS = 30.0
MAX_ARRIVING_BODIES = 65_536  # never reached: their bytes are counted as they come
DISCARD_SECONDS = 5.0
NO_CONTENT = 204

MEDIA_TYPES: Mapping[str, Encoding] = {"application/x-protobuf": "protobuf", "application/json": "json"}
CONTENT_ENCODINGS = ("", "identity", "gzip")
SIGNALS: Mapping[str, Signal[Any]] = {"/v1/traces": TRACES, "/v1/logs": LOGS, "/v1/metrics": METRICS}

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Any


class Answer(NamedTuple):
    """One response."""

    status: int
    message: Message
    headers: tuple[tuple[bytes, bytes], ...] = ()


class OtlpHttp:
    """The ASGI application. Belongs to the loop of `ingest`."""

    def __init__(
        self,
        ingest: Ingest,
        *,
        max_request_size: int,
        cors: Cors | None = None,
        status_pages: StatusPages | None = None,
    ) -> None:
        self._ingest = ingest
        self._max_request_size = max_request_size
        self._cors = cors or Cors(())
        self._status_pages = status_pages
        self.arrivals = Arrivals(MAX_ARRIVING_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing at all when the client has gone."""
        if self._status_pages is not None and scope["path"] in STATUS_PATHS:
            await self._status_pages(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        media_type = _text(headers, b"content-type").partition(";")[0].strip().lower()
        # Who asks in an unknown type is answered in the readable one.
        encoding = MEDIA_TYPES.get(media_type, "json")
        body = IncomingBody(receive)
        try:
            answer = await self._answer(scope, headers, media_type, encoding, body)
            if not body.complete and b"expect" not in headers:
                await self._discard(body)
        except ClientGone:
            return
        self._count(scope["path"], media_type, answer)
        cors = self._cors.headers(_text(headers, b"origin"))
        await _send(send, answer, encoding, cors, close=not body.complete)

    async def _answer(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        media_type: str,
        encoding: Encoding,
        incoming: IncomingBody,
    ) -> Answer:
        path = scope["path"]
        if path not in SIGNALS:
            return _error(404, grpc.StatusCode.UNIMPLEMENTED, f"send to one of {', '.join(SIGNALS)}")
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            return self._preflight(_text(headers, b"origin"))
        if scope["method"] != "POST":
            return _error(405, grpc.StatusCode.UNIMPLEMENTED, "send with POST", (b"allow", b"POST"))
        if media_type not in MEDIA_TYPES:
            message = f"Content-Type must be {' or '.join(MEDIA_TYPES)}"
            return _error(415, grpc.StatusCode.INVALID_ARGUMENT, message)
        compression = _text(headers, b"content-encoding").strip().lower()
        if compression not in CONTENT_ENCODINGS:
            message = "Content-Encoding must be gzip, or absent"
            return _error(415, grpc.StatusCode.INVALID_ARGUMENT, message, (b"accept-encoding", b"gzip"))
        try:
            body = await self._read(headers, incoming, gzip=compression == "gzip")
        except IngestRefused as refused:
            self._ingest.count_refusal(refused)
            return _refusal(refused)
        signal = SIGNALS[path]
        self._ingest.counters.request_bytes["http", signal.name] += len(body)
        return await self._export(signal, body, headers, encoding)

    async def _read(self, headers: Mapping[bytes, bytes], incoming: IncomingBody, *, gzip: bool) -> bytes:
        length = _text(headers, b"content-length")
        declared = int(length) if length.isdecimal() else 0
        # Counted while it arrives; `Ingest.export` counts it again, without a pause in between.
        try:
            place = self._ingest.admission.enter(
                MIN_WEIGHT_BYTES, announced=min(declared, self._max_request_size)
            )
        except TryAgain:
            self.arrivals.make_room()  # heads without bodies may be what fills the room
            raise
        try:
            async with self.arrivals.one(READ_SECONDS):
                return await read_body(
                    incoming,
                    declared_bytes=declared,
                    gzip=gzip,
                    max_bytes=self._max_request_size,
                    place=place,
                )
        except TimeoutError:
            raise self._ingest.admission.too_late() from None
        finally:
            place.leave()

    async def _export(
        self, signal: Signal[Any], body: bytes, headers: Mapping[bytes, bytes], encoding: Encoding
    ) -> Answer:
        key = headers.get(PROJECT_KEY_METADATA.encode())
        try:
            answer = await self._ingest.export(
                body,
                project_key=None if key is None else key.decode("latin-1"),
                signal=signal,
                encoding=encoding,
            )
        except IngestRefused as refused:
            return _refusal(refused)
        return Answer(200, answer)

    def _preflight(self, origin: str) -> Answer:
        headers = self._cors.preflight(origin)
        if headers is None:
            message = "pages of this origin may not send; see CORS_ORIGINS in docs/receiver.md"
            return _error(403, grpc.StatusCode.PERMISSION_DENIED, message)
        return Answer(NO_CONTENT, Status(), headers)

    def _count(self, path: str, media_type: str, answer: Answer) -> None:
        signal = SIGNALS[path].name if path in SIGNALS else "none"
        answered = Answered("http", MEDIA_TYPES.get(media_type, "other"), signal, str(answer.status))
        self._ingest.counters.answers[answered] += 1

    async def _discard(self, body: IncomingBody) -> None:
        try:
            async with self.arrivals.one(DISCARD_SECONDS):
                await body.discard_rest()
        except TimeoutError:
            return


def _refusal(refused: IngestRefused) -> Answer:
    message = str(refused)
    if isinstance(refused, TryAgain):
        seconds = max(1, math.ceil(refused.retry_after_seconds))
        status = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message=message)
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=seconds)))
        code = 429 if isinstance(refused, RateLimited) else 503
        return Answer(code, status, ((b"retry-after", str(seconds).encode()),))
    if isinstance(refused, TooLarge):
        return _error(413, grpc.StatusCode.RESOURCE_EXHAUSTED, message)
    if isinstance(refused, Undecodable):
        status = Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=message)
        status.details.add().Pack(bad_request(message, refused.field))
        return Answer(400, status)
    return _error(401, grpc.StatusCode.UNAUTHENTICATED, message)


def _error(status: int, code: grpc.StatusCode, message: str, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(status, Status(code=code.value[0], message=message), headers)


def _json(message: Message) -> bytes:
    return json_format.MessageToJson(message, indent=None).encode()


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")


async def _send(send: Send, answer: Answer, encoding: Encoding, cors: Headers, *, close: bool) -> None:
    """`close`: a part of the request is still to come, so the connection cannot take another one."""
    headers, body = list(answer.headers), b""
    if answer.status != NO_CONTENT:
        if encoding == "json":
            media_type, body = b"application/json", _json(answer.message)
        else:
            media_type, body = b"application/x-protobuf", answer.message.SerializeToString()
        headers += [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    headers += (header for header in cors if header not in answer.headers)
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
