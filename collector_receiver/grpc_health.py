"""grpc.health.v1.Health on a server that leaves compressed messages as they come (see `inflating`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from collector_receiver.inflating import inflated_if_small

_UNREADABLE = object()


def health_service(servicer: Any) -> Any:
    """The generic handler for `servicer`, as generated code would register it but for compressed requests."""
    untyped: Any = grpc
    messages: Any = health_pb2

    def read(body: bytes) -> Any:
        try:
            return messages.HealthCheckRequest.FromString(inflated_if_small(body))
        except DecodeError:
            return _UNREADABLE

    def answered_by(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            if request is _UNREADABLE:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no HealthCheckRequest")
            return await method(request, context)

        return answer

    write = messages.HealthCheckResponse.SerializeToString
    methods = {
        "Check": untyped.unary_unary_rpc_method_handler(answered_by(servicer.Check), read, write),
        "Watch": untyped.unary_stream_rpc_method_handler(answered_by(servicer.Watch), read, write),
    }
    return untyped.method_handlers_generic_handler(health.SERVICE_NAME, methods)
