"""Several processes on one port: all serve, a dead one is replaced, one signal stops them all."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector_receiver import processes
from collector_receiver.settings import ReceiverSettings
from profile_store import StoreSettings
from profile_store.embedded_mongodb import embedded_mongodb

EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are shared by SO_REUSEPORT of Linux")


def members_of(process):
    """Pids of the processes that serve, without multiprocessing's own resource tracker."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def samples_of(process, name):
    """Process number -> value, as any of the processes says it."""
    with urllib.request.urlopen(f"http://{process.http_address}/metrics", timeout=20) as page:
        text = page.read().decode()
    return {
        sample.labels["process"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"collector_receiver_{name}"
    }


def send(address, make, requests=1):
    """Each over a connection of its own, so that it may reach any process."""
    for _ in range(requests):
        # Without this the channels of one process share a connection.
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            channel.unary_unary(EXPORT_TRACES)(
                make.request(make.span()).SerializeToString(), timeout=30, wait_for_ready=True
            )


@pytest.fixture
def group(start_process):
    """Two processes that serve; whatever is left of them is killed after the test."""
    process = start_process(RECEIVER_PROCESSES="2")
    process.address = process.wait_for_address()
    process.members = members_of(process)
    yield process
    for pid in process.members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_all_processes_serve_and_one_signal_stops_them(group, make):
    # Given two processes
    assert len(group.members) == 2

    # When spans come over many connections, then both take some, and any of them tells of both
    def both_took_some():
        send(group.address, make, requests=4)
        accepted = samples_of(group, "spans_accepted_total")
        return len(accepted) == 2 and all(accepted.values())

    wait_until(both_took_some)

    # And one signal ends all of them
    group.signal(signal.SIGTERM)
    assert group.wait() == 0
    assert not any(map(alive, group.members))
    assert len(re.findall(r"stopped: [1-9]\d* spans accepted", group.stderr)) == 2
    assert "Traceback" not in group.stderr
    # The lines about ports are for who started it: once
    assert len(re.findall(r"OTLP/gRPC on", group.stderr)) == 1


def test_a_dead_process_is_replaced_while_the_other_one_serves(group, make):
    # When one is killed
    dead, survivor = group.members
    os.kill(dead, signal.SIGKILL)

    # Then senders go on, and another one takes its place
    send(group.address, make, requests=5)
    group.wait_for(r"process \d ended with code -9; another one takes its place in 0\.5 s")
    group.wait_for(r"process \d serves again")
    group.members = [*members_of(group), dead]
    assert survivor in group.members
    wait_until(lambda: len(samples_of(group, "ready")) == 2)

    # And a service manager that signals every process at once does not hurry any of them
    for pid in (group.pid, *members_of(group)):
        os.kill(pid, signal.SIGTERM)
    assert group.wait() == 0
    assert len(re.findall(r"stopped: \d+ spans accepted", group.stderr)) == 2
    assert "Traceback" not in group.stderr


def test_ctrl_c_lets_every_process_finish_its_requests(start_process, mongod_executable, make, tmp_path):
    # Given two processes in a terminal, one with a request that waits for a frozen database
    with embedded_mongodb(tmp_path) as server:
        group = start_process(own_group=True, MONGODB_URL=server.url, RECEIVER_PROCESSES="2")
        with grpc.insecure_channel(group.wait_for_address()) as channel:
            members = members_of(group)
            export = channel.unary_unary(EXPORT_TRACES)
            export(make.request(make.span()).SerializeToString(), timeout=30)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                waiting = export.future(make.request(make.span()).SerializeToString(), timeout=60)
                wait_until(lambda: sum(samples_of(group, "requests_in_flight").values()) == 1)

                # When Ctrl+C reaches all of them at once, and the database goes on
                os.killpg(group.pid, signal.SIGINT)
                group.wait_for(r"(?s)(stopping: finishing running calls.*){2}")
            finally:
                os.kill(server.pid, signal.SIGCONT)

            # Then the request is answered, and nobody has died of it
            assert waiting.result(30) == b""
        assert group.wait() == 0
    assert not any(map(alive, members))
    assert len(re.findall(r"stopped: \d+ spans accepted", group.stderr)) == 2
    assert "Traceback" not in group.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_while_the_database_is_waited_for_ends_them_at_once(start_process, number):
    # Given two processes of which one waits for the answer of the database already, for 8 seconds
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/"
        group = start_process(own_group=True, MONGODB_URL=url, RECEIVER_PROCESSES="2")
        silent.accept()
        started = time.monotonic()

        # When a signal reaches all of them
        os.killpg(group.pid, number)

        # Then they have stopped as asked
        assert group.wait() == 0
    assert time.monotonic() - started < 6
    assert re.fullmatch(r".* stopped all processes\n", group.stderr)


def test_ports_are_shared_by_one_receiver_only_and_no_process_outlives_the_first(
    group, run, mongodb_url, mongodb_database
):
    # When a second receiver is started on the same ports, then it is refused
    for variable, address in (("OTLP_GRPC_PORT", group.address), ("OTLP_HTTP_PORT", group.http_address)):
        port = address.rsplit(":", 1)[1]
        database = {"MONGODB_URL": mongodb_url, "MONGODB_DATABASE": mongodb_database}
        code, stderr = run(**{variable: port}, RECEIVER_PROCESSES="2", **database)
        assert (code, f"{variable}={port}" in stderr) == (3, True), stderr

    # And when the first process of the group is killed, the others stop by themselves
    group.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(alive, group.members)))


def test_processes_that_cannot_start_end_the_group_with_their_code(run):
    code, stderr = run(RECEIVER_PROCESSES="2")

    assert code == 2
    assert "MONGODB_URL is not set" in stderr
    assert "Traceback" not in stderr


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settled_seconds", "waits"),
    [(1_000.0, [0.01, 0.02, 0.04, 0.04, 0.04]), (0.0, [0.01, 0.01, 0.01, 0.01, 0.01])],
    ids=["dies again", "had settled"],
)
async def test_who_dies_again_and_again_is_replaced_after_longer_waits(
    monkeypatch, caplog, tmp_path, settled_seconds, waits
):
    # Given a process that ends as soon as it serves
    class Dying:
        number = 0
        starts = 0

        async def ended(self):
            await asyncio.sleep(0.001)
            return 1

        async def start(self):
            self.starts += 1

    monkeypatch.setattr(processes, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(processes, "LONGEST_WAIT_SECONDS", 0.04)
    monkeypatch.setattr(processes, "SETTLED_SECONDS", settled_seconds)
    store_settings = StoreSettings(MONGODB_URL="mongodb://127.0.0.1:1", MONGODB_DATABASE="none")
    group = processes._Group(ReceiverSettings(), store_settings, tmp_path)
    process = Dying()
    # When its place is kept
    began = time.monotonic()
    keeping = asyncio.create_task(group._keep(process))
    async with asyncio.timeout(30):
        while process.starts < len(waits):
            await asyncio.sleep(0.001)
    took = time.monotonic() - began
    keeping.cancel()
    await asyncio.wait([keeping])
    # Then each wait is twice the one before up to the longest, unless the process had lived for long
    told = [record.args[2] for record in caplog.records if "takes its place" in record.msg]
    assert told[: len(waits)] == waits
    assert took >= sum(waits)
