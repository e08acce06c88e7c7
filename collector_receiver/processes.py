"""Several processes on the same ports: starts them, replaces those that die, stops them all.

Each is a fresh interpreter (spawn) with loop, gRPC server and database client of its own: neither survives a
fork. The kernel spreads connections over them (SO_REUSEPORT), so one connection stays with one process.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
import tempfile
import time
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from collector_receiver.group import Member, Order, Report
from collector_receiver.listeners import PortBusy, bind, listen, shown
from collector_receiver.process import EXIT_PORT_BUSY, EXIT_SETTINGS, configure_logging, fail
from collector_receiver.process import run as run_one
from collector_receiver.server import STOP_SECONDS, Addresses, announce
from collector_receiver.settings import ReceiverSettings
from collector_receiver.snapshots import snapshot_file
from profile_store import StoreSettings

FIRST_WAIT_SECONDS = 0.5  # before a dead process is replaced; doubles
LONGEST_WAIT_SECONDS = 30.0
SETTLED_SECONDS = 60.0  # who lived that long is replaced after the first wait again
END_SECONDS = STOP_SECONDS + 8.0  # for a process to stop by itself, the database included

logger = logging.getLogger("collector_receiver")


def run(settings: ReceiverSettings, store_settings: StoreSettings) -> int:
    """Until a signal. The exit code, see `process.run`; that of a process that cannot start is ours."""
    if not hasattr(socket, "SO_REUSEPORT"):
        return fail(
            f"RECEIVER_PROCESSES={settings.receiver_processes}: this system cannot share a port between "
            "processes (SO_REUSEPORT); set RECEIVER_PROCESSES=1",
            EXIT_SETTINGS,
        )
    try:
        with _Ports(settings) as ports, tempfile.TemporaryDirectory(prefix="receiver-") as directory:
            group = _Group(ports.settings, store_settings, Path(directory))
            return asyncio.run(group.run(ports.addresses))
    except PortBusy as problem:
        return fail(str(problem), EXIT_PORT_BUSY)


class _Ports:
    """Keeps the ports for the group: no other program can take them while a process is replaced.

    A socket that is bound and does not listen gets no connections.
    """

    def __init__(self, settings: ReceiverSettings) -> None:
        self._kept: list[socket.socket] = []
        try:
            self.settings = self._with_ports(settings)
        except PortBusy:
            self.__exit__()
            raise

    def _with_ports(self, settings: ReceiverSettings) -> ReceiverSettings:
        ports: dict[str, int] = {}
        for name in ("otlp_grpc_port", "otlp_http_port", "status_port"):
            wanted: int | None = getattr(settings, name)
            if wanted is None:
                continue
            host_name = "status_host" if name == "status_port" else "bind_host"
            host, variables = getattr(settings, host_name), (name.upper(), host_name.upper())
            # Another receiver could share the port too: so first as if there were no sharing.
            probe = listen(host, wanted, variable=variables[0], host_variable=variables[1], shared=False)
            ports[name] = probe.getsockname()[1]
            probe.close()
            self._kept.append(
                bind(host, ports[name], variable=variables[0], host_variable=variables[1], shared=True)
            )
        return settings.model_copy(update=ports)

    @property
    def addresses(self) -> Addresses:
        settings = self.settings
        host, status = shown(settings.bind_host), ""
        if settings.status_port is not None:
            status = f"{shown(settings.status_host)}:{settings.status_port}"
        return Addresses(f"{host}:{settings.otlp_grpc_port}", f"{host}:{settings.otlp_http_port}", status)

    def __enter__(self) -> _Ports:
        return self

    def __exit__(self, *_: object) -> None:
        for kept in self._kept:
            kept.close()


class _Group:
    """The processes. Runs on a loop of its own, without store and servers."""

    def __init__(self, settings: ReceiverSettings, store_settings: StoreSettings, directory: Path) -> None:
        self._settings = settings
        self._directory = directory
        self._processes = [
            _Process(number, settings, store_settings, directory)
            for number in range(settings.receiver_processes)
        ]
        self._stopping = asyncio.Event()
        self._order: Order = "stop"

    async def run(self, addresses: Addresses) -> int:
        """Until a signal, or until a process cannot start for the first time."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        codes = await asyncio.gather(*(process.start() for process in self._processes))
        # Whoever was told to stop before it served has not failed.
        code = 0 if self._stopping.is_set() else next((code for code in codes if code is not None), 0)
        if code == 0 and not self._stopping.is_set():
            announce(addresses, self._settings)
            logger.info("%d processes share the ports", len(self._processes))
            keeping = [asyncio.create_task(self._keep(process)) for process in self._processes]
            await self._stopping.wait()
            for task in keeping:
                task.cancel()
            await asyncio.wait(keeping)
        await asyncio.gather(*(process.end(self._order) for process in self._processes))
        logger.info("stopped all processes")
        return code

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._order = "hurry"
        self._stopping.set()
        for process in self._processes:
            process.tell(self._order)

    async def _keep(self, process: _Process) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            started = time.monotonic()
            code = await process.ended()
            if time.monotonic() - started > SETTLED_SECONDS:
                wait = FIRST_WAIT_SECONDS
            logger.error(
                "process %d ended with code %s; another one takes its place in %.1f s",
                process.number,
                code,
                wait,
            )
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            if await process.start() is None:
                logger.info("process %d serves again", process.number)


class _Process:
    """One place in the group, and whoever has it."""

    def __init__(
        self, number: int, settings: ReceiverSettings, store_settings: StoreSettings, directory: Path
    ) -> None:
        self.number = number
        self._arguments = (settings, store_settings)
        self._directory = directory
        self._process: SpawnProcess | None = None
        self._orders: Connection[Order, Report] | None = None
        self._code = 0

    async def start(self) -> int | None:
        """None when it serves; its exit code when it ended before."""
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        member = Member(self.number, self._directory, theirs)
        self._process = context.Process(
            target=_member_main, args=(*self._arguments, member), name=f"receiver-{self.number}"
        )
        _start_without_interrupts(self._process)
        theirs.close()
        # The pipe has an end when its process has.
        await _readable(self._orders.fileno())
        try:
            self._orders.recv()
        except (EOFError, OSError):
            return await self.ended()
        return None

    async def ended(self) -> int:
        """Its exit code, once it has one; what it left behind is removed."""
        if self._process is not None:
            await _readable(self._process.sentinel)
            self._process.join()
            self._code = self._process.exitcode or 0
            snapshot_file(self._directory, self.number).unlink(missing_ok=True)
        return self._code

    def tell(self, order: Order) -> None:
        """Safe when it is gone."""
        if self._orders is not None:
            try:
                self._orders.send(order)
            except OSError:
                return

    async def end(self, order: Order) -> None:
        """Return when it is gone, by force if it does not stop."""
        if self._process is None:
            return
        self.tell(order)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.ended()
        except TimeoutError:
            logger.error("process %d does not stop; killing it", self.number)
            self._process.kill()
            await self.ended()
        if self._orders is not None:
            self._orders.close()


def _member_main(settings: ReceiverSettings, store_settings: StoreSettings, member: Member) -> None:
    configure_logging(settings)
    raise SystemExit(run_one(settings, store_settings, member))


def _start_without_interrupts(process: SpawnProcess) -> None:
    """Ctrl+C reaches the whole group; its first process passes it on. What is blocked here is so in the new
    process from its first moment."""
    resource_tracker.ensure_running()  # which `start` would do, and unblock the signal by it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
