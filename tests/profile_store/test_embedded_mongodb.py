from __future__ import annotations

import importlib.util
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pymongo import MongoClient

from profile_store.embedded_mongodb import EmbeddedMongoDBError, embedded_mongodb, find_mongod
from tests.free_ports import find_free_ports

pytestmark = pytest.mark.usefixtures("mongod_executable")

PARENT = """
import sys, time
from pathlib import Path
from profile_store.embedded_mongodb import embedded_mongodb
with embedded_mongodb(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


def wait_for(condition: Callable[[], bool], what: str, limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def insert(url: str, text: str) -> None:
    with MongoClient(url) as client:
        client.test.notes.with_options(write_concern=None).insert_one({"_id": text})


def notes(url: str) -> list[str]:
    with MongoClient(url) as client:
        return sorted(note["_id"] for note in client.test.notes.find())


def fake_mongod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A `mongod` that is first on PATH and behaves badly."""
    directory = tmp_path / "bin"
    directory.mkdir()
    executable = directory / "mongod"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_server_starts_as_primary_and_leaves_nothing_running(tmp_path):
    # Given a directory that does not exist yet
    data = tmp_path / "new" / "data"
    messages: list[str] = []
    # When a server runs there
    with embedded_mongodb(data, progress=messages.append) as server:
        # Then it accepts majority writes, only its owner may read the files, and it says what it does
        insert(server.url, "kept")
        assert notes(server.url) == ["kept"]
        assert stat.S_IMODE((data / "mongodb").stat().st_mode) == 0o700
        assert messages
    # And afterwards the process is gone
    assert server.exited.is_set()
    assert not is_running(server.pid)


def test_the_server_listens_on_loopback_only_and_leads_its_own_session(tmp_path):
    with embedded_mongodb(tmp_path) as server, MongoClient(server.url) as client:
        assert client.admin.command("getCmdLineOpts")["parsed"]["net"]["bindIp"] == "127.0.0.1"
        # Ctrl-C goes to the session of the terminal
        assert os.getsid(server.pid) != os.getsid(0)


def test_data_and_address_survive_a_restart(tmp_path):
    # Given a server at a port that nobody else is given while it is away
    (tmp_path / "mongodb.port").write_text(str(find_free_ports(1)[0]))
    with embedded_mongodb(tmp_path) as first:
        insert(first.url, "kept")
    with embedded_mongodb(tmp_path) as second:
        assert second.url == first.url
        assert notes(second.url) == ["kept"]


def test_data_survives_a_changed_port(tmp_path):
    # Given a server whose port somebody else has taken since
    (port,) = find_free_ports(1)
    (tmp_path / "mongodb.port").write_text(str(port))
    with embedded_mongodb(tmp_path) as first:
        insert(first.url, "kept")
    somebody = socket.socket()
    somebody.bind(("127.0.0.1", port))
    # When it starts again
    with somebody, embedded_mongodb(tmp_path) as second:
        # Then it has another address and the same data, and is primary under it
        assert second.url != first.url
        assert notes(second.url) == ["kept"]
        insert(second.url, "more")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="asks for the limits of another process")
def test_a_server_may_open_as_many_files_as_the_system_allows(tmp_path):
    # Given a system that lets a process have more than it has at first
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1_024, hard - 1), hard))
    try:
        # When a server starts
        with embedded_mongodb(tmp_path) as server:
            # Then it has the most
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_dropped_leaves_no_files(tmp_path):
    with embedded_mongodb(tmp_path) as server, MongoClient(server.url) as client:
        # Given a collection that has a file
        insert(server.url, "dropped soon")
        uri = client.test.command("collStats", "notes")["wiredTiger"]["uri"]
        file = tmp_path / "mongodb" / f"{uri.rpartition(':')[2]}.wt"
        assert file.exists()

        # When its database is dropped
        client.drop_database("test")

        # Then the file is gone with the next checkpoints, long before the five minutes of the default
        def is_gone() -> bool:
            client.other.notes.insert_one({"text": "time goes on"})
            client.admin.command("fsync")
            return not file.exists()

        wait_for(is_gone, "the file of a dropped collection", 100)


def test_data_survives_kill_9_of_the_server(tmp_path):
    with embedded_mongodb(tmp_path) as first:
        insert(first.url, "kept")
        os.kill(first.pid, signal.SIGKILL)
        assert first.exited.wait(10)
    with embedded_mongodb(tmp_path) as second:
        assert notes(second.url) == ["kept"]


def test_a_second_start_on_the_same_directory_names_the_first(tmp_path):
    with embedded_mongodb(tmp_path) as server:
        with (
            pytest.raises(EmbeddedMongoDBError, match=f"in use by process {os.getpid()}.*DATA_DIR"),
            embedded_mongodb(tmp_path),
        ):
            pass
        # And the first is not disturbed
        insert(server.url, "kept")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_the_server_does_not_outlive_a_parent_that_was_killed(tmp_path):
    # Given a server whose parent is another process
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        server_pid = int(parent.stdout.readline())
        # When the parent is killed
        parent.kill()
    # Then a new start works at once, although the old server may still be stopping
    with embedded_mongodb(tmp_path) as server:
        assert server.pid != server_pid
        assert not is_running(server_pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_frozen_server_whose_parent_was_killed_is_ended_and_its_data_are_kept(tmp_path, monkeypatch):
    # Given a server that was frozen before its parent was killed, so that nothing can stop it
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        server_pid = int(parent.stdout.readline())
        insert(f"mongodb://127.0.0.1:{(tmp_path / 'mongodb.port').read_text()}/?w=majority", "kept")
        os.kill(server_pid, signal.SIGSTOP)
        parent.kill()
    # When the next one starts on its data
    monkeypatch.setattr("profile_store.embedded_mongodb._STOP_LIMIT_SECONDS", 0.5)
    with embedded_mongodb(tmp_path) as server:
        # Then it is gone, and what it had acknowledged is there
        assert not is_running(server_pid)
        assert notes(server.url) == ["kept"]
        monkeypatch.undo()


def test_somebody_elses_server_on_the_directory_is_named_and_left_alone(
    tmp_path, mongod_executable, monkeypatch
):
    # Given a server that somebody runs on the directory, perhaps to repair it
    monkeypatch.setattr("profile_store.embedded_mongodb._STOP_LIMIT_SECONDS", 0.1)
    database = tmp_path / "mongodb"
    database.mkdir()
    command = [
        mongod_executable,
        "--dbpath",
        database,
        "--port",
        "0",
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as somebody:
        try:
            lock = database / "mongod.lock"
            wait_for(lambda: lock.exists() and lock.read_text() == f"{somebody.pid}\n", "the lock")
            # When one of ours is to start, then it is not killed but named
            with (
                pytest.raises(EmbeddedMongoDBError, match=f"process {somebody.pid}"),
                embedded_mongodb(tmp_path, limit_seconds=1),
            ):
                pass
            assert is_running(somebody.pid)
        finally:
            somebody.kill()


def test_the_server_outlives_the_thread_that_started_it(tmp_path):
    # Given a server started by a thread that ends
    entered = []
    context = embedded_mongodb(tmp_path)
    thread = threading.Thread(target=lambda: entered.append(context.__enter__()))
    thread.start()
    thread.join()
    try:
        # Then it still answers
        insert(entered[0].url, "kept")
        assert not entered[0].exited.wait(0.5)
    finally:
        context.__exit__(None, None, None)


def test_a_server_that_hangs_is_killed_in_the_end(tmp_path, monkeypatch):
    # Given a server that is frozen, and a short patience
    monkeypatch.setattr("profile_store.embedded_mongodb._STOP_LIMIT_SECONDS", 0.3)
    with embedded_mongodb(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
    # Then it was killed
    assert not is_running(server.pid)


def test_without_a_server_the_error_names_three_ways_out(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedMongoDBError, match=r"MONGODB_URL.*PATH.*make setup"):
        find_mongod()


def test_a_server_on_path_is_preferred(tmp_path, monkeypatch):
    fake_mongod(tmp_path, monkeypatch, "exit 1")
    assert find_mongod() == tmp_path / "bin" / "mongod"


def test_a_server_that_lacks_a_library_says_what_to_install(tmp_path, monkeypatch):
    fake_mongod(tmp_path, monkeypatch, "exit 127")
    with (
        pytest.raises(EmbeddedMongoDBError, match=r"exit code 127\..*install libcurl.*or set MONGODB_URL"),
        embedded_mongodb(tmp_path / "data"),
    ):
        pass


def test_a_failed_start_shows_the_end_of_the_log(tmp_path, monkeypatch):
    fake_mongod(tmp_path, monkeypatch, "echo the disk is full; exit 100")
    with (
        pytest.raises(EmbeddedMongoDBError, match=r"exit code 100\.\n.*mongod.log:\n.*the disk is full"),
        embedded_mongodb(tmp_path / "data"),
    ):
        pass


def test_a_server_that_never_answers_is_given_up_and_stopped(tmp_path, monkeypatch):
    fake_mongod(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; echo still recovering; exec sleep 600")
    with (
        pytest.raises(EmbeddedMongoDBError, match=r"not get ready in time(.|\n)*still recovering"),
        embedded_mongodb(tmp_path / "data", limit_seconds=0.5),
    ):
        pass
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_whoever_follows_the_progress_can_stop_the_start(tmp_path, monkeypatch):
    # Given a start that hangs, and a follower that has enough
    monkeypatch.setattr("profile_store.embedded_mongodb._REPORT_SECONDS", 0.1)
    fake_mongod(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 600")

    def progress(message: str) -> None:
        if "waiting" in message:
            raise KeyboardInterrupt

    # When it raises, then the start ends with it and nothing is left
    with pytest.raises(KeyboardInterrupt), embedded_mongodb(tmp_path / "data", progress=progress):
        pass
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_file_in_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with (
        pytest.raises(EmbeddedMongoDBError, match=f"Cannot use the data directory {tmp_path}/data"),
        embedded_mongodb(tmp_path / "data"),
    ):
        pass
