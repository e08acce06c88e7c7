"""The receiver on one loop: start, address, serve until a signal, stop within a bound."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import grpc.aio
from grpc_health.v1 import health, health_pb2
from prometheus_client.metrics_core import Metric

from collector_receiver import metrics
from collector_receiver.cors import Cors
from collector_receiver.group import ALONE, Member, Order, Report
from collector_receiver.grpc_health import health_service
from collector_receiver.grpc_services import SERVICES, OtlpGrpc
from collector_receiver.http_server import HttpServer
from collector_receiver.http_services import OtlpHttp
from collector_receiver.ingest import Ingest
from collector_receiver.listeners import PortBusy, busy, listen, shown
from collector_receiver.projects import Projects
from collector_receiver.rate_limit import RateLimit
from collector_receiver.readiness import Readiness
from collector_receiver.settings import ReceiverSettings, is_loopback
from collector_receiver.snapshots import Snapshots
from collector_receiver.status_pages import StatusPages
from collector_receiver.tls import load_tls
from profile_store.contracts import Store

__all__ = ["STOP_SECONDS", "Addresses", "PortBusy", "Receiver", "Stopping", "serve"]

STOP_SECONDS = 10.0
LAST_BODY_SECONDS = 1.0  # for what is still on its way when the receiver stops
LAST_ANSWER_SECONDS = 2.0  # for answers to leave and connections to close; who watches health never closes
MAX_CONCURRENT_STREAMS = 128  # per connection; HTTP/2 makes the client wait for its turn
MAX_PENDING_CALLS = 20_000  # of those nobody has looked at; beyond it gRPC itself answers with CANCELLED
# By itself gRPC keeps a connection without calls for ever, and notices after 2 hours who is gone in the
# middle of a call. Clients connect again when they have something to send.
MAX_IDLE_MILLISECONDS = 1_000_000  # no multiple of what exporters wait between two calls
PING_AFTER_MILLISECONDS = 120_000
PING_MILLISECONDS = 20_000  # for the answer

logger = logging.getLogger("collector_receiver")


class Addresses(NamedTuple):
    """Where a receiver listens, each as "host:port"."""

    grpc: str
    http: str
    status: str = ""
    """"" when the HTTP port has the status pages."""


class Receiver:
    """One receiver on one loop, which must be the one that opened the store. Does not own the store."""

    def __init__(self, store: Store, settings: ReceiverSettings, member: Member = ALONE) -> None:
        """Raises InvalidSettings when a file for TLS cannot be used."""
        self._settings = settings
        self._member = member
        self._tls = load_tls(settings)
        limit = RateLimit(spans=settings.project_spans_per_second, bytes=settings.project_bytes_per_second)
        projects = Projects(store, settings.ingest_mode, limit=limit, max_projects=settings.max_projects)
        self.ingest = Ingest(store, projects)
        self._started_at = time.time()
        self._readiness = Readiness(store.check, self._tell_health)
        self._snapshots = Snapshots(self._metrics, process=member.process, directory=member.snapshots)
        self._status_pages = StatusPages(self._readiness, self._snapshots)
        self._grpc = OtlpGrpc(self.ingest, max_request_size=settings.max_request_size)
        self._http = OtlpHttp(
            self.ingest,
            max_request_size=settings.max_request_size,
            cors=Cors(settings.cors_origins),
            status_pages=self._status_pages if settings.status_port is None else None,
        )
        self._health: Any = cast("Any", health).aio.HealthServicer()  # not visible to type checkers
        self._server = self._grpc_server()
        self._http_servers: list[HttpServer] = []

    def _grpc_server(self) -> Any:
        # Without so_reuseport=0 a second receiver would share the port in silence and take half of the calls.
        server: Any = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._settings.max_request_size),
                ("grpc.so_reuseport", int(self._member.shares_ports)),
                ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
                ("grpc.max_connection_idle_ms", MAX_IDLE_MILLISECONDS),
                ("grpc.keepalive_time_ms", PING_AFTER_MILLISECONDS),
                ("grpc.keepalive_timeout_ms", PING_MILLISECONDS),
                # With it gRPC takes megabytes of calls that nobody reads yet. What is read has no such limit.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.per_message_decompression", 0),  # see `inflating`
                ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            ]
        )
        server.add_generic_rpc_handlers(self._grpc.handlers())
        server.add_generic_rpc_handlers([health_service(self._health)])
        return server

    async def start(self) -> Addresses:
        """Listen on all ports.

        Raises:
            PortBusy: another program listens there, or the address is not of this machine.
        """
        settings, shared = self._settings, self._member.shares_ports
        host = settings.bind_host
        listener = listen(host, settings.otlp_http_port, variable="OTLP_HTTP_PORT", shared=shared)
        listeners = [listener]
        try:
            if settings.status_port is not None:
                listeners.append(
                    listen(
                        settings.status_host,
                        settings.status_port,
                        variable="STATUS_PORT",
                        host_variable="STATUS_HOST",
                        shared=shared,
                    )
                )
            grpc_port = self._bind_grpc(host, settings.otlp_grpc_port)
        except PortBusy:
            for each in listeners:
                each.close()
            raise
        tls = self._tls.context if self._tls else None
        self._http_servers = [HttpServer(self._http, listener, tls=tls)]
        self._http_servers += [HttpServer(self._status_pages, each) for each in listeners[1:]]
        status = "".join(f"{shown(settings.status_host)}:{each.getsockname()[1]}" for each in listeners[1:])
        addresses = Addresses(
            f"{shown(host)}:{grpc_port}", f"{shown(host)}:{listener.getsockname()[1]}", status
        )
        for server in self._http_servers:
            await server.start()
        await self._tell_health(True)
        await self._server.start()
        self._readiness.start()
        self._snapshots.start()
        return addresses

    def _bind_grpc(self, host: str, port: int) -> int:
        try:
            if self._tls is None:
                return self._server.add_insecure_port(f"{shown(host)}:{port}")
            return self._server.add_secure_port(f"{shown(host)}:{port}", self._tls.credentials)
        except RuntimeError:
            raise busy("OTLP_GRPC_PORT", host, port) from None

    async def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Refuse new requests, finish running ones in at most `timeout_seconds`, then close the ports in at
        most `LAST_ANSWER_SECONDS`.

        In this order, because gRPC itself answers a call that reaches a closing server with CANCELLED: it may
        be repeated as well, but says neither why nor when. So while requests run, we answer.
        """
        self.ingest.refuse_new_requests()
        await self._readiness.stop()
        await self._health.enter_graceful_shutdown()
        for arrivals in (self._grpc.arrivals, self._http.arrivals):
            arrivals.hurry(min(LAST_BODY_SECONDS, timeout_seconds))
        await self.ingest.drain(timeout_seconds)
        left = min(LAST_ANSWER_SECONDS, timeout_seconds)
        await asyncio.gather(self._server.stop(left), *(server.stop(left) for server in self._http_servers))
        await self._snapshots.stop()
        await self.ingest.close()

    async def _tell_health(self, ready: bool) -> None:
        answers = health_pb2.HealthCheckResponse
        for service in ("", *SERVICES):
            await self._health.set(service, answers.SERVING if ready else answers.NOT_SERVING)

    def _metrics(self) -> Iterable[Metric]:
        return metrics.families(
            self.ingest,
            process=self._member.process,
            ready=self._readiness.ready,
            started_at=self._started_at,
        )


async def serve(store: Store, settings: ReceiverSettings, member: Member, stopping: Stopping) -> None:
    """Run until `stopping` asks for the end, then stop gracefully, or at once when it is in a hurry.

    Raises:
        PortBusy: see `Receiver.start`.
        InvalidSettings: a file for TLS cannot be used.
    """
    _allow_connections()
    receiver = Receiver(store, settings, member)
    addresses = await receiver.start()
    if member.orders is None:
        announce(addresses, settings)
    else:
        member.orders.send("serving")
    await stopping.asked.wait()
    logger.info("stopping: finishing running calls, at most %.0f s", STOP_SECONDS)
    stop = asyncio.create_task(receiver.stop())
    hurry = asyncio.create_task(stopping.in_a_hurry.wait())
    await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.done():
        stop.cancel()
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


def _allow_connections() -> None:
    """As many as the system lets this process have. What it has at first, often 1024 files, is meant for
    programs that use `select`."""
    try:
        import resource
    except ImportError:
        return  # Windows, which has no such limit
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (most, 10_240):  # macOS refuses what has no limit
        if now in (most, wanted):
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return


def announce(addresses: Addresses, settings: ReceiverSettings) -> None:
    """Say where requests are accepted, and what is dangerous about it."""
    if addresses.status:
        logger.info("status pages on %s", addresses.status)
    logger.info("OTLP/HTTP on %s", addresses.http)
    logger.info("OTLP/gRPC on %s", addresses.grpc)
    if is_loopback(settings.bind_host):
        return
    if settings.ingest_mode == "open":
        logger.warning(
            "INGEST_MODE=open on %s: anyone who reaches this address can store spans", settings.bind_host
        )
    if settings.otlp_tls_certificate is None:
        logger.warning(
            "no TLS on %s: spans and project keys travel readable; set OTLP_TLS_CERTIFICATE and "
            "OTLP_TLS_KEY, or end TLS in front of the receiver",
            settings.bind_host,
        )


class Stopping:
    """Turns SIGTERM, SIGINT and the orders of the group into events, from the moment that it is made."""

    def __init__(self, member: Member) -> None:
        self.asked, self.in_a_hurry = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._on_signal)
        if member.orders is None:
            self._loop.add_signal_handler(signal.SIGINT, self._on_signal)
        else:
            # Ctrl+C reaches the whole group; its first process passes it on.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._loop.add_reader(member.orders.fileno(), self._on_order, member.orders)

    def _on_signal(self) -> None:
        if self.asked.is_set():
            self.in_a_hurry.set()
        self.asked.set()

    def _on_order(self, orders: Connection[Report, Order]) -> None:
        """A service manager may signal every process of the group: an order is no second signal."""
        try:
            order = orders.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(orders.fileno())
            order = "stop"  # whoever started this process is gone
        self.asked.set()
        if order == "hurry":
            self.in_a_hurry.set()
