"""The receiver as a process: start, address, serve until a signal, stop within a bound."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Any, NamedTuple, cast

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from collector_receiver.grpc_services import SERVICES, services
from collector_receiver.http_server import HttpServer
from collector_receiver.http_services import OtlpHttp
from collector_receiver.ingest import Ingest
from collector_receiver.projects import Projects
from collector_receiver.settings import ReceiverSettings, is_loopback
from profile_store.contracts import Writer

STOP_SECONDS = 10.0
MAX_CONCURRENT_STREAMS = 128  # per connection; HTTP/2 makes the client wait for its turn

logger = logging.getLogger("collector_receiver")


class PortBusy(Exception):
    """The address cannot be listened on. One line with the remedy."""


class Addresses(NamedTuple):
    """Where a receiver listens, each as "host:port"."""

    grpc: str
    http: str


class Receiver:
    """One receiver on one loop, which must be the one that opened the store. Does not own the store."""

    def __init__(self, store: Writer, settings: ReceiverSettings) -> None:
        projects = Projects(store, settings.ingest_mode, max_projects=settings.max_projects)
        self.ingest = Ingest(store, projects)
        self._settings = settings
        self._health: Any = cast("Any", health).aio.HealthServicer()  # not visible to type checkers
        # Without so_reuseport=0 a second receiver would share the port in silence and take half of the calls.
        self._server: Any = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_request_size),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
            ]
        )
        self._server.add_generic_rpc_handlers(services(self.ingest))
        self._http: HttpServer | None = None
        cast("Any", health_pb2_grpc).add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> Addresses:
        """Listen on both ports.

        Raises:
            PortBusy: another program listens there, or the address is not of this machine.
        """
        host, port = self._settings.bind_host, self._settings.otlp_grpc_port
        shown_host = f"[{host}]" if ":" in host else host
        listener = _listen(host, self._settings.otlp_http_port)
        try:
            bound_port: int = self._server.add_insecure_port(f"{shown_host}:{port}")
        except RuntimeError:
            listener.close()
            raise _busy("OTLP_GRPC_PORT", host, port) from None
        http_address = f"{shown_host}:{listener.getsockname()[1]}"
        app = OtlpHttp(self.ingest, max_request_size=self._settings.max_request_size)
        self._http = HttpServer(app, listener)
        await self._http.start()
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return Addresses(grpc=f"{shown_host}:{bound_port}", http=http_address)

    async def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Refuse new requests, finish running ones, then close the ports; each at most `timeout_seconds`.

        In this order, because gRPC itself answers a call that reaches a closing server with CANCELLED: it may
        be repeated as well, but says neither why nor when. So while requests run, we answer.
        """
        self.ingest.refuse_new_requests()
        await self._health.enter_graceful_shutdown()
        await self.ingest.drain(timeout_seconds)
        ports = [self._server.stop(timeout_seconds)]
        if self._http is not None:
            ports.append(self._http.stop(timeout_seconds))
        await asyncio.gather(*ports)
        await self.ingest.close()


async def serve(store: Writer, settings: ReceiverSettings) -> None:
    """Run until SIGTERM or SIGINT, then stop gracefully; a second signal stops at once.

    Raises:
        PortBusy: see `Receiver.start`.
    """
    loop = asyncio.get_running_loop()
    asked_to_stop, in_a_hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if asked_to_stop.is_set():
            in_a_hurry.set()
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    receiver = Receiver(store, settings)
    addresses = await receiver.start()
    logger.info("OTLP/HTTP on %s", addresses.http)
    logger.info("OTLP/gRPC on %s", addresses.grpc)
    if not is_loopback(settings.bind_host) and settings.ingest_mode == "open":
        logger.warning(
            "INGEST_MODE=open on %s: anyone who reaches this address can store spans", settings.bind_host
        )
    await asked_to_stop.wait()
    logger.info("stopping: finishing running calls, at most %.0f s", STOP_SECONDS)
    stopping = asyncio.create_task(receiver.stop())
    hurry = asyncio.create_task(in_a_hurry.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        await receiver.stop(0)
    hurry.cancel()
    counters = receiver.ingest.counters
    logger.info(
        "stopped: %d spans accepted (%d new records, %d new profiles), %d rejected",
        counters.spans_accepted,
        counters.new_records,
        counters.new_profiles,
        counters.spans_rejected.total(),
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError:
        raise _busy("OTLP_HTTP_PORT", host, port) from None
    try:
        # As servers do: a port in TIME_WAIT is not taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Now, not when uvicorn begins to serve: Linux lets two sockets bind one port, but not listen on it.
        listener.listen()
    except OSError:
        listener.close()
        raise _busy("OTLP_HTTP_PORT", host, port) from None
    return listener


def _busy(variable: str, host: str, port: int) -> PortBusy:
    shown_host = f"[{host}]" if ":" in host else host
    return PortBusy(
        f"{variable}={port}: cannot listen on {shown_host}:{port}; stop the program that uses it, set "
        f"{variable} to a free port (0 finds one), or check BIND_HOST"
    )
