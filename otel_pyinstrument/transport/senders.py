"""One attempt to deliver one encoded request, over the connection settings of an exporter."""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from otel_pyinstrument.transport import private_names

_RETRYABLE_GRPC = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
_RETRYABLE_GRPC_WITH_RETRY_INFO = "RESOURCE_EXHAUSTED"
_RETRY_INFO = "google.rpc.retryinfo-bin"
_RETRYABLE_HTTP = frozenset({429, 502, 503, 504})


class Answer(enum.Enum):
    """As the OTLP specification divides answers (https://opentelemetry.io/docs/specs/otlp/#failures)."""

    DELIVERED = "delivered"
    LATER = "later"
    """No answer, or one that says to try again."""
    REFUSED = "refused"
    """Sending it again would change nothing."""


Send = Callable[[bytes], Answer]
OpenSender = Callable[[], AbstractContextManager[Send]]


def sender_for(exporter: Any, protocol: str, grpc_method: str) -> OpenSender | None:
    """How to send what `exporter` would have sent; None when it is not built as we know it."""
    if protocol == "grpc":
        if not private_names.can_open_grpc_channel(exporter):
            return None
        return lambda: _by_grpc(exporter, grpc_method)
    post = private_names.http_post_once(exporter)
    return None if post is None else (lambda: _by_http(post, private_names.timeout_seconds_of(exporter)))


@contextmanager
def _by_grpc(exporter: Any, method: str) -> Generator[Send]:
    import grpc

    # A channel of its own: the exporter replaces its channel when it likes, and one that could not
    # connect for a while would wait for up to two minutes before it tries again.
    channel, metadata, compression = private_names.open_grpc_channel(exporter)
    call = channel.unary_unary(method)
    timeout_seconds = private_names.timeout_seconds_of(exporter)

    def send(body: bytes) -> Answer:
        try:
            call(body, metadata=metadata, timeout=timeout_seconds, compression=compression)
        except grpc.RpcError as error:
            call_error: Any = error
            code: str = call_error.code().name
            trailers = call_error.trailing_metadata()
            asked_to_retry = any(key == _RETRY_INFO for key, _ in trailers or ())
            retryable = code in _RETRYABLE_GRPC or (
                code == _RETRYABLE_GRPC_WITH_RETRY_INFO and asked_to_retry
            )
            return Answer.LATER if retryable else Answer.REFUSED
        return Answer.DELIVERED

    try:
        yield send
    finally:
        channel.close()


@contextmanager
def _by_http(
    post: Callable[[bytes, float], tuple[int | None, str]], timeout_seconds: float
) -> Generator[Send]:
    def send(body: bytes) -> Answer:
        try:
            status, _reason = post(body, timeout_seconds)
        except OSError:
            # requests.RequestException is one too.
            return Answer.LATER
        if status is None or status in _RETRYABLE_HTTP:
            return Answer.LATER
        return Answer.DELIVERED if 200 <= status < 300 else Answer.REFUSED

    yield send
