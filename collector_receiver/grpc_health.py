"""grpc.health.v1.Health on a server that leaves compressed messages as they come (see `inflating`)."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from collector_receiver.inflating import inflated_if_small


def health_service(servicer: Any) -> Any:
    """The generic handler for `servicer`, as generated code would register it but for compressed requests."""
    untyped: Any = grpc
    messages: Any = health_pb2

    def read(body: bytes) -> Any:
        return messages.HealthCheckRequest.FromString(inflated_if_small(body))

    write = messages.HealthCheckResponse.SerializeToString
    methods = {
        "Check": untyped.unary_unary_rpc_method_handler(servicer.Check, read, write),
        "Watch": untyped.unary_stream_rpc_method_handler(servicer.Watch, read, write),
    }
    return untyped.method_handlers_generic_handler(health.SERVICE_NAME, methods)
