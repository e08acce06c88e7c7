"""`python -m collector_receiver.probe`: whether the receiver with these settings accepts requests.

For health checks: it reads the same environment as the receiver and asks `grpc.health.v1.Health` on its port.
Exit code 0 when the answer is SERVING, else 1 and one line that says why.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2

from collector_receiver.settings import InvalidSettings, ReceiverSettings, load

TIMEOUT_SECONDS = 4.0
# "Any address" is where one listens, not where one asks.
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_CHECK = "/grpc.health.v1.Health/Check"


def main() -> int:
    """Ask once; returns the exit code."""
    try:
        settings = load(ReceiverSettings)
    except InvalidSettings as problem:
        return _fail(str(problem))
    host = _REACHABLE.get(settings.bind_host, settings.bind_host)
    address = f"[{host}]:{settings.otlp_grpc_port}" if ":" in host else f"{host}:{settings.otlp_grpc_port}"
    # What is asked is on this machine, whatever proxy the environment names.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check: Any = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return _fail(f"{address}: {cast('Any', error).code().name}")
    status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return 0 if status == "SERVING" else _fail(f"{address}: {status}")


def _fail(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
