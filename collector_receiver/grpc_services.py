"""OTLP/gRPC: decodes metadata, calls `Ingest`, encodes the answer. Status codes are chosen only here.

A call is admitted before its body is read, so the methods are registered as taking a stream: on the wire that
is the same, but gRPC hands a unary call over with its whole body in memory. How large a body is, is known
only when it is there; so few are read at one time, and bytes stay bytes until `Ingest` has admitted them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from collector_receiver.admission import MIN_WEIGHT_BYTES
from collector_receiver.arrivals import Arrivals
from collector_receiver.counters import Answered
from collector_receiver.inflating import inflated
from collector_receiver.ingest import Ingest
from collector_receiver.refusals import IngestRefused, TooLarge, TryAgain, Undecodable, bad_request
from collector_receiver.signals import LOGS, METRICS, TRACES, Signal

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
LOGS_SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"
METRICS_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
SERVICES = (TRACE_SERVICE, LOGS_SERVICE, METRICS_SERVICE)

PROJECT_KEY_METADATA = "x-project-key"
NO_MESSAGE = "no_message"  # the reason
READ_SECONDS = 30.0
ARRIVING_BYTES = 128 * 1024 * 1024  # of all bodies that are read at one time, each as large as it may be

# grpcio has no type information: its objects are `Any` here and only here.
Context: TypeAlias = Any
Handler: TypeAlias = Callable[[Any, Context], Awaitable[bytes]]
_NO_MORE = cast("Any", grpc.aio).EOF
_NO_CALL: type[Exception] = cast("Any", grpc.aio).InternalError


class OtlpGrpc:
    """The three OTLP services. Belongs to the loop of `ingest`."""

    def __init__(self, ingest: Ingest, *, max_request_size: int) -> None:
        self._ingest = ingest
        self._max_request_size = max_request_size
        self.arrivals = Arrivals(max(2, ARRIVING_BYTES // max_request_size))

    def handlers(self) -> list[Any]:
        """The generic handlers to register with a server."""
        return [
            _service(TRACE_SERVICE, self._method(TRACES)),
            _service(LOGS_SERVICE, self._method(LOGS)),
            _service(METRICS_SERVICE, self._method(METRICS)),
        ]

    def _method(self, signal: Signal[Any]) -> Handler:
        async def export(_requests: object, context: Context) -> bytes:
            code = grpc.StatusCode.UNKNOWN
            try:
                body = await self._read(context)
                self._ingest.counters.request_bytes["grpc", signal.name] += len(body)
                key = project_key(context.invocation_metadata())
                message = await self._ingest.export(body, project_key=key, signal=signal)
                answered = message.SerializeToString()
                code = grpc.StatusCode.OK
            except IngestRefused as refused:
                code = _code(refused)
                try:
                    await _abort(context, code, refused)
                except _NO_CALL:
                    # The call is over: its sender has gone, or gRPC has answered what it did not hand over.
                    if refused.reason == NO_MESSAGE:
                        code = grpc.StatusCode.RESOURCE_EXHAUSTED
                    raise asyncio.CancelledError from None
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                self._ingest.counters.answers[Answered("grpc", "protobuf", signal.name, code.name)] += 1
            return answered

        return export

    async def _read(self, context: Context) -> bytes:
        try:
            # Counted with its size by `Ingest.export`, without a pause in between.
            try:
                place = self._ingest.admission.enter(MIN_WEIGHT_BYTES)
            except TryAgain:
                self.arrivals.make_room()  # calls without messages may be what fills the room
                raise
            try:
                async with self.arrivals.one(READ_SECONDS):
                    body = await context.read()
                if body is _NO_MORE:
                    # None came, or gRPC has answered by itself what it does not hand over: above its limit,
                    # of unknown compression, of a sender that has gone. Which of them, it does not tell.
                    raise Undecodable(
                        NO_MESSAGE, f"no whole message of at most {self._max_request_size} bytes"
                    )
                body = await inflated(body, max_bytes=self._max_request_size, place=place)
            except TimeoutError:
                raise self._ingest.admission.too_late() from None
            finally:
                place.leave()
        except IngestRefused as refused:
            self._ingest.count_refusal(refused)
            raise
        return body


def project_key(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The first `x-project-key` of a call; None when there is none."""
    for name, value in metadata or ():
        if name == PROJECT_KEY_METADATA:
            return value if isinstance(value, str) else value.decode("ascii", errors="replace")
    return None


def _code(refused: IngestRefused) -> grpc.StatusCode:
    if isinstance(refused, TryAgain):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(refused, Undecodable):
        return grpc.StatusCode.INVALID_ARGUMENT
    return (
        grpc.StatusCode.RESOURCE_EXHAUSTED
        if isinstance(refused, TooLarge)
        else grpc.StatusCode.UNAUTHENTICATED
    )


async def _abort(context: Context, code: grpc.StatusCode, refused: IngestRefused) -> NoReturn:
    trailers: tuple[tuple[str, bytes], ...] = ()
    if isinstance(refused, TryAgain):
        nanoseconds = round(refused.retry_after_seconds * 1e9)
        retry = RetryInfo(retry_delay=Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9))
        # As OTLP asks for it, and once more in the place where Python's gRPC exporter looks for it.
        again = ("google.rpc.retryinfo-bin", retry.SerializeToString())
        trailers = (_status_trailer(code, refused, retry), again)
    elif isinstance(refused, Undecodable):
        trailers = (_status_trailer(code, refused, bad_request(str(refused), refused.field)),)
    await context.abort(code, str(refused), trailers)
    raise AssertionError("context.abort always raises")


def _status_trailer(code: grpc.StatusCode, refused: IngestRefused, detail: Message) -> tuple[str, bytes]:
    packed = AnyMessage()
    packed.Pack(detail)
    status = Status(code=code.value[0], message=str(refused), details=[packed])
    return "grpc-status-details-bin", status.SerializeToString()


def _service(name: str, export: Handler) -> Any:
    untyped: Any = grpc
    method = untyped.stream_unary_rpc_method_handler(export)
    return untyped.method_handlers_generic_handler(name, {"Export": method})
