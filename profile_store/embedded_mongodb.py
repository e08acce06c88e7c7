"""A real MongoDB of one's own: found, started as a replica set of one node, waited for, stopped.

The server is never part of this project: it is a `mongod` on PATH, or the one in the wheel that the
dependency group `embedded-mongodb` installs. It listens on 127.0.0.1 only and has no password, like any
development database.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

_REPLICA_SET = "otel_pyinstrument"
_START_LIMIT_SECONDS = 60.0
_STOP_LIMIT_SECONDS = 20.0
_POLL_SECONDS = 0.05
_REPORT_SECONDS = 1.0
_SHOWN_LOG_LINES = 12
_SHOWN_CHARACTERS = 400
_MISSING_LIBRARY = (
    " A library of the system is missing: install libcurl and OpenSSL 3 (Debian: libcurl4 libssl3),"
    " or set MONGODB_URL to a MongoDB that runs."
)

# Exit codes of mongod, from its src/mongo/util/exit_code.h, and of the dynamic linker before it.
_EXIT_ADDRESS_IN_USE = 48
_EXIT_NOT_LOADED = 127

# Error codes of the server.
_NOT_YET_INITIALIZED = 94

# Becomes the server by exec, so no code of ours runs between fork and exec of the calling process. The kernel
# stops the server when its parent dies, even by SIGKILL: prctl(PR_SET_PDEATHSIG = 1, SIGTERM). Linux only.
# The server has a file for each collection, index and connection, and aborts when it may open no more.
_LAUNCHER = """
import ctypes, os, resource, signal, sys
parent = int(sys.argv[1])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
except (OSError, ValueError):
    pass  # macOS refuses what has no limit
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""

Progress: TypeAlias = Callable[[str], None]


class EmbeddedMongoDBError(Exception):
    """No server was found, or it did not start. The message says what to do."""


def find_mongod() -> Path:
    """The server's executable: on PATH, else in the installed wheel.

    Raises:
        EmbeddedMongoDBError: there is none; the message names the three ways out.
    """
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    spec = importlib.util.find_spec("fiftyone")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(location) / "db" / "bin" / "mongod"
        if os.access(candidate, os.X_OK):
            return candidate
    raise EmbeddedMongoDBError(
        "No MongoDB found. Three ways out: (1) set MONGODB_URL to a MongoDB 6.0 or newer; "
        "(2) install MongoDB so that `mongod` is on PATH; "
        "(3) run `make setup` in a checkout of this project, which installs one as a Python package"
    )


class EmbeddedMongoDB:
    """A running server. `url` is for `MONGODB_URL`; `exited` is set when the process is gone."""

    def __init__(self, url: str, server: _Server) -> None:
        self.url = url
        self._server = server

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def exited(self) -> threading.Event:
        return self._server.exited

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._server.exit_code

    def stop(self) -> None:
        """Ask the server to stop and wait; kill it after 20 s. The second time nothing happens."""
        self._server.stop()


@contextmanager
def embedded_mongodb(
    data_dir: Path, *, progress: Progress = lambda _: None, limit_seconds: float = _START_LIMIT_SECONDS
) -> Generator[EmbeddedMongoDB]:
    """Run a server with its data under `data_dir`/mongodb and its log in `data_dir`/mongod.log.

    Blocks until it accepts writes; may be called on any thread. `progress` gets short messages there.
    A data directory survives kill -9 of the server or of this process, and a changed port.

    Raises:
        EmbeddedMongoDBError: no server, a second start on the same directory, or no start within the limit.
    """
    executable = find_mongod()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / "mongodb").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EmbeddedMongoDBError(f"Cannot use the data directory {data_dir}: {error.strerror}") from None
    with _locked(data_dir):
        progress(f"starting {executable}")
        start = _Start(executable, data_dir, progress, time.monotonic() + limit_seconds)
        server, port = start.answering_server()
        try:
            start.become_primary(server, port)
            yield EmbeddedMongoDB(f"mongodb://127.0.0.1:{port}/?replicaSet={_REPLICA_SET}", server)
        finally:
            server.stop()


@contextmanager
def _locked(data_dir: Path) -> Generator[None]:
    """One process per data directory. The kernel drops the lock with the process, so it is never stale."""
    with (data_dir / "mongodb.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise EmbeddedMongoDBError(
                f"The data directory {data_dir} is in use by process {holder}. "
                "Stop that one, or name another directory with --data or DATA_DIR."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class _Server:
    """One mongod process.

    PR_SET_PDEATHSIG fires when the *thread* that started the process ends. So a thread of its own starts it
    and then waits for it: that thread lives exactly as long as the server, or as this process.
    """

    def __init__(self, arguments: list[str], output: IO[bytes]) -> None:
        self.exited = threading.Event()
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        threading.Thread(target=self._run, args=(arguments, output), name="mongod", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise EmbeddedMongoDBError(f"Cannot start {arguments[0]}: {self._failure.strerror}")

    def _run(self, arguments: list[str], output: IO[bytes]) -> None:
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *arguments]
        try:
            # A session of its own: Ctrl-C in the terminal must reach those who still write to it first.
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            self._failure = error
        self._started.set()
        if self._process is not None:
            self._process.wait()
            self.exited.set()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        return self._running().returncode if self.exited.is_set() else None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server was never started")
        return self._process

    def stop(self) -> None:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            if self.exited.is_set():
                return
            self._running().send_signal(signal_number)
            self.exited.wait(_STOP_LIMIT_SECONDS)


class _Start:
    """The way from nothing to a primary, within a limit."""

    def __init__(self, executable: Path, data_dir: Path, progress: Progress, deadline: float) -> None:
        self._executable = executable
        self._data_dir = data_dir
        self._log = data_dir / "mongod.log"
        self._progress = progress
        self._deadline = deadline
        self._next_report = time.monotonic() + _REPORT_SECONDS
        if self._log.exists():
            self._log.replace(data_dir / "mongod.log.1")

    def answering_server(self) -> tuple[_Server, int]:
        """A server that answers, and its port. Tries again when somebody takes the port meanwhile."""
        self._outlive_the_last_one()
        while True:
            port = _port_for(self._data_dir)
            with self._log.open("ab") as output:
                server = _Server(_arguments(self._executable, self._data_dir / "mongodb", port), output)
            try:
                while not _answers(port) and not server.exited.is_set():
                    self._wait(f"waiting for MongoDB on 127.0.0.1:{port}")
                # Whoever answers on the port of a server that has exited is somebody else.
                if not server.exited.is_set():
                    (self._data_dir / "mongodb.port").write_text(str(port))
                    return server, port
                if server.exit_code != _EXIT_ADDRESS_IN_USE:
                    raise self._stopped(server)
                self._wait("looking for another port")
            except BaseException:
                server.stop()
                raise

    def _outlive_the_last_one(self) -> None:
        """Wait for a server whose parent was killed; one that hangs is killed, as `stop` would have done.

        That is safe: whatever it acknowledged is in its journal.
        """
        lock = self._data_dir / "mongodb" / "mongod.lock"
        patience = time.monotonic() + _STOP_LIMIT_SECONDS
        while _is_locked(lock):
            holder = _holder(lock)
            if holder is not None and time.monotonic() > patience and self._is_ours(holder):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(holder, signal.SIGKILL)
            self._wait(f"waiting for the last MongoDB on this directory to stop (process {holder})")

    def _is_ours(self, pid: int) -> bool:
        """Whether this process is a server that an earlier start left behind; only Linux can tell."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text("utf-8", "surrogateescape").split("\0")
        except OSError:
            return False
        return {str(self._data_dir / "mongodb"), _REPLICA_SET} <= set(command)

    def become_primary(self, server: _Server, port: int) -> None:
        """Make the replica set, or correct the port in it, and wait until it accepts writes."""
        member = f"127.0.0.1:{port}"
        client: MongoClient[dict[str, Any]] = MongoClient(
            member, directConnection=True, serverSelectionTimeoutMS=1_000, socketTimeoutMS=10_000
        )
        with client:
            while True:
                problem = ""
                try:
                    if client.admin.command("hello").get("isWritablePrimary"):
                        return
                    _configure(client, member)
                except PyMongoError as error:
                    problem = f" ({type(error).__name__})"
                if server.exited.is_set():
                    raise self._stopped(server)
                self._wait(f"waiting until MongoDB accepts writes{problem}")

    def _wait(self, what: str) -> None:
        now = time.monotonic()
        if now > self._deadline:
            raise EmbeddedMongoDBError(f"MongoDB did not get ready in time, {what}.{self._log_tail()}")
        if now > self._next_report:
            self._next_report = now + _REPORT_SECONDS
            self._progress(what)
        time.sleep(_POLL_SECONDS)

    def _stopped(self, server: _Server) -> EmbeddedMongoDBError:
        remedy = _MISSING_LIBRARY if server.exit_code == _EXIT_NOT_LOADED else ""
        return EmbeddedMongoDBError(
            f"MongoDB stopped with exit code {server.exit_code}.{remedy}{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        """The last warnings and errors; the very last lines of a shutdown say nothing of its cause."""
        if not self._log.exists():
            return ""
        lines = self._log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if '"s":"I"' not in line] or lines
        shown = (f"  {line[:_SHOWN_CHARACTERS]}" for line in telling[-_SHOWN_LOG_LINES:])
        return "\n".join([f"\nFrom the end of {self._log}:", *shown])


def _arguments(executable: Path, database_dir: Path, port: int) -> list[str]:
    return [
        str(executable),
        *("--dbpath", str(database_dir)),
        *("--bind_ip", "127.0.0.1"),
        *("--port", str(port)),
        *("--replSet", _REPLICA_SET),
        "--nounixsocket",
        # The defaults take half of the memory for the cache and 5 percent of the disk for the oplog.
        *("--wiredTigerCacheSizeGB", "0.5"),
        *("--oplogSize", "256"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        # Nobody reads the past here; by default what is dropped keeps its files for five more minutes.
        *("--setParameter", "minSnapshotHistoryWindowInSeconds=5"),
        # There is no other node to hand over to, so SIGTERM need not wait the usual 15 s for one.
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
    ]


def _port_for(data_dir: Path) -> int:
    """The port of the last start when it is free, so that addresses stay valid; else any free one."""
    try:
        return _bound_port(int((data_dir / "mongodb.port").read_text()))
    except (OSError, ValueError, OverflowError):
        return _bound_port(0)


def _bound_port(port: int) -> int:
    with socket.socket() as probe:
        # As mongod does; else a port would look busy for a minute after its last connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return probe.getsockname()[1]


def _is_locked(lock: Path) -> bool:
    """Whether a server holds its own lock: one whose parent was killed a moment ago is still stopping."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _holder(lock: Path) -> int | None:
    """The process that a server wrote into its lock."""
    try:
        return int(lock.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _configure(client: MongoClient[dict[str, Any]], member: str) -> None:
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != _NOT_YET_INITIALIZED:
            raise
        members = [{"_id": 0, "host": member}]
        client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
        return
    if config["members"][0]["host"] != member:
        config["members"][0]["host"] = member
        config["version"] += 1
        # Under its new address the node is in no replica set, so nobody else could accept this change.
        client.admin.command("replSetReconfig", config, force=True)
