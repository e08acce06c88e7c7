"""Three real MongoDB nodes, of which one is killed, stepped down, frozen or cut off under load."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime

import httpx2
import pymongo
import pytest
from anyio.from_thread import start_blocking_portal
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern
from starlette.applications import Starlette
from starlette.routing import Mount

from analysis_api.app import create_app
from analysis_api.errors import error_handlers
from analysis_api.guards import guarded
from analysis_api.health import health_routes
from analysis_api.settings import ApiSettings
from profile_store import StoreSettings, open_store
from profile_store.contracts import StoreUnavailable
from profile_store.model import IncomingBatch, IncomingChildSpans

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

PORT = 27017
MEMBERS = 3
NOWHERE = "02:00:00:00:00:fe"
TOOLS = ("ip", "unshare", "nsenter", "setpriv")
LIMIT_SECONDS = 120


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


class Host:
    """A network namespace with one address. It lives as long as a `cat` that reads from a pipe of ours.

    So nothing of it stays behind, whatever ends this process: the kernel closes the pipe.
    """

    def __init__(self, address, mac):
        self.address, self.mac = address, mac
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout.readline() == b"ready\n", "no network namespace was made"
        self.pid = str(self._keeper.pid)
        self.inside = ("nsenter", "--target", self.pid, "--net")
        self.interface = "eth0"

    def close(self):
        self._keeper.communicate()


class OurSide:
    """This process's own namespace, as one more host of the network."""

    def __init__(self, address, mac):
        self.address, self.mac = address, mac
        self.pid = str(os.getpid())
        self.inside = ()
        self.interface = f"failover{os.getpid()}"[:15]

    def close(self):
        """The interface goes with its other end."""


class Network:
    """Hosts on one bridge, itself in a namespace. Addresses are of the range for benchmarks (RFC 2544)."""

    def __init__(self):
        taken = subprocess.run(["ip", "-4", "address"], check=True, capture_output=True, text=True).stdout
        net = random.choice([n for n in range(256) if f" 198.18.{n}." not in taken])
        self.us = OurSide(f"198.18.{net}.254", "02:00:00:00:00:00")
        self.hosts = []
        self._switch = Host("", "")
        try:
            self._in_switch("ip", "link", "add", "bridge", "type", "bridge")
            self._in_switch("ip", "link", "set", "bridge", "up")
            for number in range(1, MEMBERS + 1):
                self.hosts.append(Host(f"198.18.{net}.{number}", f"02:00:00:00:00:{number:02x}"))
            for number, host in enumerate((self.us, *self.hosts)):
                self._connect(f"port{number}", host)
            self._heal()
        except BaseException:
            self.close()
            raise

    def _in_switch(self, *command):
        run(*self._switch.inside, *command)

    def _connect(self, port, host):
        link = ("link", "add", port, "type", "veth", "peer", "name", host.interface, "netns", host.pid)
        self._in_switch("ip", *link)
        self._in_switch("ip", "link", "set", port, "master", "bridge", "up")
        run(*host.inside, "ip", "link", "set", host.interface, "address", host.mac)
        run(*host.inside, "ip", "address", "add", f"{host.address}/24", "dev", host.interface)
        run(*host.inside, "ip", "link", "set", host.interface, "up")
        run(*host.inside, "ip", "link", "set", "lo", "up")

    @contextmanager
    def cut(self, host, others):
        """In this block every packet between `host` and `others` is lost in silence, in both directions."""
        try:
            for other in others:
                self._send_to(host, other, NOWHERE)
                self._send_to(other, host, NOWHERE)
            yield
        finally:
            self._heal()

    def _heal(self):
        everybody = (self.us, *self.hosts)
        for host in everybody:
            for other in everybody:
                if other is not host:
                    self._send_to(host, other, other.mac)

    @staticmethod
    def _send_to(host, other, mac):
        neighbour = ("neighbour", "replace", other.address, "lladdr", mac, "nud", "permanent")
        run(*host.inside, "ip", *neighbour, "dev", host.interface)

    def close(self):
        for host in (*self.hosts, self._switch):
            host.close()


class Member:
    """One mongod on a host of its own; `client` talks to this one only."""

    def __init__(self, host, executable, directory):
        self.host = host
        self.address = f"{host.address}:{PORT}"
        self.log = directory / "log"
        directory.mkdir()
        self._command = [
            # The kernel ends the server with this process.
            *("setpriv", "--pdeathsig", "KILL", *host.inside, executable),
            *("--dbpath", directory, "--bind_ip", host.address, "--port", str(PORT)),
            *("--replSet", "rs", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "256"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # A node that was killed, or that rolls back, begins at the last checkpoint: usually a minute ago.
            *("--syncdelay", "5"),
            # How long a node waits for the one it copies from when that has fallen silent, usually 5 s more.
            *("--setParameter", "oplogNetworkTimeoutBufferSeconds=1"),
        ]
        self.client = MongoClient(
            self.address,
            directConnection=True,
            connect=False,
            connectTimeoutMS=1_000,
            serverSelectionTimeoutMS=1_000,
            socketTimeoutMS=10_000,
            heartbeatFrequencyMS=500,
        )
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def close(self):
        self.client.close()
        self.kill()


# Elections begin after 2 s without a sign of life of the primary, not after 10. And the new one does not wait
# for the last writes of a node that is silent, by default 10 s and more: what a majority has, it has.
SETTINGS = {
    "electionTimeoutMillis": 2_000,
    "heartbeatIntervalMillis": 500,
    "heartbeatTimeoutSecs": 2,
    "catchUpTimeoutMillis": 1_000,
}


class ReplicaSet:
    """Three members, of which one is the primary."""

    def __init__(self, network, executable, directory):
        self.network = network
        self.members = []
        try:
            for number, host in enumerate(network.hosts):
                self.members.append(Member(host, executable, directory / f"member-{number}"))
            self.url = f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet=rs"
            members = [{"_id": number, "host": m.address} for number, m in enumerate(self.members)]
            config = {"_id": "rs", "members": members, "settings": SETTINGS}
            wait_until(lambda: self._is_initiated(config), "the replica set is made")
            wait_until(self._has_elected, "a primary is elected")
            self.wait_until_healthy()
        except BaseException:
            self.close()
            raise

    def _is_initiated(self, config):
        try:
            for member in self.members:
                member.client.admin.command("ping")
            self.members[0].client.admin.command("replSetInitiate", config)
        except PyMongoError:
            return False
        return True

    def _has_elected(self):
        """Does not wait for the election that would come by itself."""
        try:
            self.members[0].client.admin.command("replSetStepUp")
        except PyMongoError:
            return False
        return True

    def primary(self, among=None):
        """The member that accepts writes, of the latest election if two believe it; None without one."""
        claims = []
        for member in among or self.members:
            try:
                hello = member.client.admin.command("hello")
            except PyMongoError:
                continue
            if hello["isWritablePrimary"]:
                claims.append((hello["electionId"], member))
        return max(claims, key=lambda claim: claim[0], default=(None, None))[1]

    def wait_for_primary(self, among=None):
        deadline = time.monotonic() + LIMIT_SECONDS
        while (primary := self.primary(among)) is None:
            assert time.monotonic() < deadline, f"no primary within {LIMIT_SECONDS} s"
            time.sleep(0.1)
        return primary

    def others(self, member):
        return [other for other in self.members if other is not member]

    def hosts_besides(self, member):
        return [other.host for other in self.others(member)]

    def wait_until_healthy(self):
        """One primary, and the others follow it closely."""
        wait_until(self._is_healthy, "all members are healthy")

    def _is_healthy(self):
        try:
            primary = self.primary()
            if primary is None:
                return False
            members = primary.client.admin.command("replSetGetStatus")["members"]
        except PyMongoError:
            return False
        newest = max(member["optimeDate"] for member in members)
        return Counter(member["stateStr"] for member in members) == {"PRIMARY": 1, "SECONDARY": 2} and all(
            (newest - member["optimeDate"]).total_seconds() <= 1 for member in members
        )

    def rolled_back(self):
        """How often a member took writes back that no majority had, and how many operations these were."""
        counts = []
        for member in self.members:
            for line in member.log.read_text().splitlines():
                if "Rollback reverted command counts" in line:
                    counts.append(sum(json.loads(line)["attr"].values()))
        return len(counts), sum(counts)

    def close(self):
        for member in self.members:
            member.close()


def wait_until(condition, what):
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def network():
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    reason = f"not on PATH: {', '.join(missing)} (Debian: iproute2 util-linux)" if missing else ""
    if not missing:
        probe = ["unshare", "--net", "ip", "link", "add", "bridge", "type", "bridge"]
        made = subprocess.run(probe, capture_output=True, text=True, check=False)
        reason = f"network namespaces are not permitted here, run as root: {made.stderr.strip()}"
        reason = reason if made.returncode else ""
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    network = Network()
    yield network
    network.close()


@pytest.fixture(scope="module")
def replica_set(network, mongod_executable, tmp_path_factory):
    replica_set = ReplicaSet(network, mongod_executable, tmp_path_factory.mktemp("replica-set"))
    yield replica_set
    replica_set.close()


@pytest.fixture
def database(request, replica_set):
    """The name of a database of the test's own."""
    return request.node.name[:60]


# What happens to a primary inside a `with` block. It is mended at the end.


@contextmanager
def stepped_down(_replica_set, primary):
    def is_stepped_down():
        # Refused when no follower is close enough, or when it has just happened by itself.
        with suppress(PyMongoError):
            primary.client.admin.command({"replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 5})
        return not primary.client.admin.command("hello")["isWritablePrimary"]

    wait_until(is_stepped_down, "the primary has stepped down")
    yield


@contextmanager
def killed(_replica_set, primary):
    primary.kill()
    try:
        yield
    finally:
        primary.start()


@contextmanager
def frozen(_replica_set, *members):
    for member in members:
        member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            member.signal(signal.SIGCONT)


@contextmanager
def cut_off_from_everybody(replica_set, primary):
    with replica_set.network.cut(primary.host, [replica_set.network.us, *replica_set.hosts_besides(primary)]):
        yield


@contextmanager
def cut_off_from_the_other_nodes(replica_set, primary):
    with replica_set.network.cut(primary.host, replica_set.hosts_besides(primary)):
        yield


EVENTS = (stepped_down, killed, frozen, cut_off_from_the_other_nodes)
EVENTS_AT_FULL_SCALE = (*EVENTS, cut_off_from_everybody) * 5


def test_nothing_acknowledged_is_lost_or_doubled_and_nothing_good_refused_whatever_befalls_the_primary(
    replica_set, database, start_receiver, fail_over, full_scale
):
    # Given two receivers under load on a replica set of three
    receivers = [start_receiver(replica_set.url, database) for _ in range(2)]
    targets = [(receiver.address, receiver.http_address) for receiver in receivers]
    with fail_over.Load(targets, poison=True) as load:
        load.wait_for_every_sender(5)

        # When one misfortune after the other befalls the primary
        for event in EVENTS_AT_FULL_SCALE if full_scale else EVENTS:
            primary = replica_set.wait_for_primary()
            load.begin(event.__name__.replace("_", " "))
            with event(replica_set, primary):
                replica_set.wait_for_primary(among=replica_set.others(primary))
                # Then the load goes on with another one
                load.wait_for_every_sender(2)
            replica_set.wait_until_healthy()
            load.wait_for_every_sender(1)

    # And everything that was acknowledged is there once, and only the poison was refused
    fail_over.assert_exactly_once(load, replica_set.url, database)
    print("rollbacks: {}, operations taken back: {}".format(*replica_set.rolled_back()))
    assert [receiver.stop() for receiver in receivers] == [0, 0]


@asynccontextmanager
async def running_api(settings):
    async with open_store(settings) as store:
        routes = [*health_routes(store), Mount("/api", routes=[Mount("/v1", create_app(store))])]
        app = guarded(Starlette(routes=routes, exception_handlers=error_handlers()), ApiSettings())
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            yield client


def test_with_two_of_three_nodes_away_nothing_is_acknowledged_and_all_goes_on_when_they_are_back(
    replica_set, database, start_receiver, fail_over
):
    # Given receiver and API at work
    receiver = start_receiver(replica_set.url, database)
    settings = StoreSettings(MONGODB_URL=replica_set.url, MONGODB_DATABASE=database)
    replica_set.wait_until_healthy()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_api(settings)) as api,
        fail_over.Load([(receiver.address, receiver.http_address)], poison=False) as load,
    ):
        load.wait_for_every_sender(2)

        # When two of three nodes are away, and the third has noticed it
        load.begin("two of three away")
        primary = replica_set.wait_for_primary()
        with frozen(replica_set, *replica_set.others(primary)):
            wait_until(lambda: replica_set.primary(among=[primary]) is None, "the primary has stepped down")
            paths = ("/ready", "/api/v1/projects")
            answers = [portal.start_task_soon(api.get, path) for path in paths]
            # Then receiver and API say so
            load.wait_for_refusals()
            acknowledged = len(load.batches())
            ready, projects = (answer.result(LIMIT_SECONDS) for answer in answers)
            assert (ready.status_code, projects.status_code) == (503, 503)
            assert projects.json()["code"] == 1006
            # And nobody is told that anything was stored
            assert len(load.batches()) == acknowledged

        # And when they are back everything goes on by itself
        load.wait_for_every_sender(2)
        assert portal.call(api.get, "/api/v1/projects").status_code == 200
    fail_over.assert_exactly_once(load, replica_set.url, database)
    assert receiver.stop() == 0


def test_a_primary_that_has_stepped_down_does_not_count_as_an_answer(replica_set, database):
    async def step_down_and_check():
        # Given a driver that learns only from errors who is primary
        settings = StoreSettings(
            MONGODB_URL=f"{replica_set.url}&serverMonitoringMode=poll&heartbeatFrequencyMS=600000",
            MONGODB_DATABASE=database,
        )
        async with open_store(settings) as store:
            await store.check()
            # When its primary has stepped down, and nobody else can take its place
            primary = replica_set.wait_for_primary()
            with frozen(replica_set, *replica_set.others(primary)):
                await asyncio.to_thread(
                    wait_until,
                    lambda: replica_set.primary(among=[primary]) is None,
                    "the primary has stepped down",
                )
                # Then the node that still answers is not enough
                with pytest.raises(StoreUnavailable), pymongo.timeout(1.5):
                    await store.check()

    replica_set.wait_until_healthy()
    asyncio.run(step_down_and_check())


def test_what_only_the_primary_has_is_not_acknowledged_for_being_there_already(replica_set, database):
    async def write():
        chunks = primary.client.get_database(database, write_concern=WriteConcern(w=1)).child_spans
        settings = StoreSettings(MONGODB_URL=replica_set.url, MONGODB_DATABASE=database)
        async with open_store(settings) as store:
            chunk = IncomingChildSpans(
                project_id=(await store.project_for_service("shop")).id,
                trace_id=os.urandom(16),
                span_ids=[os.urandom(8)],
                timestamp=datetime.now(UTC),
                otlp=b"",
            )
            batch = IncomingBatch(child_spans=[chunk])
            await store.write(batch)
            with frozen(replica_set, *replica_set.others(primary)):
                # Given a document that no other node has, so that a fail-over would take it back
                chunks.insert_one(chunks.find_one_and_delete({}))
                # When the same is written, then its being there is no success
                with pytest.raises(StoreUnavailable), pymongo.timeout(1.5):
                    await store.write(batch)
            # And it is when the other nodes are back
            await asyncio.to_thread(replica_set.wait_until_healthy)
            assert list((await store.write(batch)).refusals) == []

    replica_set.wait_until_healthy()
    primary = replica_set.wait_for_primary()
    asyncio.run(write())
