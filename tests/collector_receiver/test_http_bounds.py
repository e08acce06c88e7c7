"""What a connection may take over HTTP, whoever sends: heads, trailers, requests in a row, unread answers."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading

import pytest

from collector_receiver import http_server
from collector_receiver.admission import MIN_WEIGHT_BYTES
from collector_receiver.ingest import Ingest
from collector_receiver.profile_event import TooCostlyHere
from collector_receiver.signals import TRACES
from collector_receiver.status_pages import PLAIN_TEXT, StatusPages

pytestmark = pytest.mark.anyio

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
EMPTY = (
    b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
)
CHUNKED = (
    b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@pytest.fixture
async def connect(receiver):
    """Function () -> reader and writer of a new connection, closed after the test."""
    writers = []

    async def connect():
        reader, writer = await asyncio.open_connection(*receiver.http_address.rsplit(":", 1))
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()


async def closed(reader):
    """Return when the receiver has closed the connection, without an answer."""
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def answer_of(reader):
    """Status and body of the next answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = next(line for line in head.splitlines() if line.startswith(b"content-length:"))
    return int(head.split()[1]), await reader.readexactly(int(length.partition(b":")[2]))


ENDLESS = {
    "trailers": b"0\r\n" + b"ab:cd\r\n" * 150_000,
    "one trailer": b"0\r\nx: " + b"y" * 1_000_000,
    "a chunk's extension": b"1;" + b"y" * 1_000_000,
    "trailers behind a body": b"1\r\n\n\r\n0\r\nx: " + b"y" * 1_000_000,
}


@pytest.mark.parametrize("sent", ENDLESS.values(), ids=ENDLESS)
async def test_what_is_no_body_and_does_not_end_closes_the_connection(connect, sent):
    reader, writer = await connect()

    writer.write(CHUNKED + sent)

    await closed(reader)


async def test_a_body_in_the_smallest_chunks_is_taken(receiver, connect, make):
    """Of six bytes five are no body: many times what a head may have."""
    reader, writer = await connect()
    body = make.request(make.span({"x": "y" * 30_000})).SerializeToString()

    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    writer.write(CHUNKED + chunks + b"0\r\nchecksum: 1\r\n\r\n")

    assert await answer_of(reader) == (200, b"")
    assert receiver.ingest.counters.spans_accepted == 1


HEADS = {
    "a long line": b"x: " + b"y" * 40_000 + b"\r\n",
    "many lines": b"ab:cd\r\n" * 200,
}


@pytest.mark.parametrize("lines", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("before", [b"", HEALTH], ids=["new", "kept alive"])
async def test_a_head_above_the_limit_is_a_431_with_a_status(connect, lines, before):
    # Given a connection, new or after an answer
    reader, writer = await connect()
    writer.write(before)
    if before:
        assert (await answer_of(reader))[0] == 200

    # When a head is too long, or has too many headers
    writer.write(HEALTH[:-2] + lines + b"\r\n")

    # Then its sender is told, and the connection over
    status, body = await answer_of(reader)
    assert (status, json.loads(body)["code"]) == (431, 8)
    assert "32768 bytes or 200 headers" in json.loads(body)["message"]
    await closed(reader)


@pytest.mark.parametrize("lines", [b"x: " + b"y" * 32_700 + b"\r\n", b"ab:cd\r\n" * 199])
async def test_a_head_up_to_the_limit_is_taken(connect, lines):
    reader, writer = await connect()

    for _ in range(2):
        writer.write(HEALTH[:-2] + lines + b"\r\n")
        assert (await answer_of(reader))[0] == 200


H2C = b"connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"


def wishes_for_http2(body):
    """What Java's HTTP client sends first on a connection."""
    return (
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
        + H2C
        + b"content-length: %d\r\n\r\n" % len(body)
        + body
    )


@pytest.mark.parametrize("characters", [10, 3_900, 300_000])
async def test_a_request_that_would_rather_be_http2_is_taken_as_it_is(receiver, connect, make, characters):
    # Given a body in which the same header stands as well
    reader, writer = await connect()
    text = "\r\nUpgrade: h2c\r\n\r\n" + "y" * characters
    request = make.request(make.span({"x": text}, name=text[:40]))

    # When it comes twice on one connection
    for _ in range(2):
        writer.write(wishes_for_http2(request.SerializeToString()))

        # Then it is stored
        assert await answer_of(reader) == (200, b"")
    assert receiver.ingest.counters.spans_accepted == 2


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        wishes_for_http2(b"{}").partition(b"Upgrade: h2c")[::2],
        (b"", b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n"),
    ],
    ids=["in two pieces", "CONNECT"],
)
async def test_what_can_only_be_another_protocol_is_refused(receiver, connect, first, rest):
    """Its body would be taken for the beginning of that protocol, and the empty rest be acknowledged."""
    # Given a beginning that the receiver has read
    reader, writer = await connect()
    writer.write(first)
    other, other_writer = await connect()
    other_writer.write(HEALTH)
    assert (await answer_of(other))[0] == 200

    # When the rest makes it one
    writer.write((b"Upgrade: h2c" if first else b"") + rest)

    # Then it is refused, and the connection over
    status, body = await answer_of(reader)
    assert (status, json.loads(body)["code"]) == (400, 3)
    await closed(reader)


async def test_heads_without_bodies_make_room_for_others(receiver, connect, monkeypatch):
    # Given as many heads as have room, whose bodies never come
    monkeypatch.setattr("collector_receiver.arrivals.FAIR_SECONDS", 0.0)
    admission = receiver.ingest.admission
    admission.enter(admission.max_bytes - 2 * MIN_WEIGHT_BYTES)
    for _ in range(2):
        _, writer = await connect()
        writer.write(EMPTY[:-2])
    async with asyncio.timeout(20):
        while admission.bytes_in_flight < admission.max_bytes:
            await asyncio.sleep(0.01)

    # When another request comes, and comes again as it is told to
    answers = []
    async with asyncio.timeout(20):
        while 200 not in answers:
            reader, writer = await connect()
            writer.write(EMPTY)
            answers.append((await answer_of(reader))[0])

    # Then it is taken when it had been refused at most once for each of them
    assert answers[:-1] == [503] * len(answers[:-1])
    assert 1 <= len(answers[:-1]) <= 2


class Held:
    """Exports begin and end as the test says."""

    def __init__(self):
        self._begun, self._may_end = threading.Semaphore(0), threading.Semaphore(0)

    def parse(self, body, *, on_loop=False):
        if on_loop:
            raise TooCostlyHere
        self._begun.release()
        assert self._may_end.acquire(timeout=20)
        return TRACES.parse["protobuf"](body)

    async def one_begins(self):
        assert await asyncio.to_thread(self._begun.acquire, timeout=20)

    def let_go(self, number=1):
        self._may_end.release(number)


@pytest.fixture
def held(monkeypatch):
    """Holds up every export."""
    held, real = Held(), Ingest.export
    signal = dataclasses.replace(TRACES, parse={"protobuf": held.parse, "json": held.parse})
    monkeypatch.setattr(
        Ingest, "export", lambda self, _body, **options: real(self, b"", **(options | {"signal": signal}))
    )
    yield held
    held.let_go(100)


async def test_a_head_above_the_limit_is_no_answer_to_a_request_before_it(connect, held):
    # Given a request that is worked on
    reader, writer = await connect()
    writer.write(EMPTY)
    await held.one_begins()

    # When a head that is too long comes behind it
    writer.write(HEALTH[:-2] + HEADS["many lines"] + b"\r\n")

    # Then the connection ends without an answer, which would be taken for that of the request
    await closed(reader)


async def test_too_many_requests_in_a_row_close_the_connection(connect, held):
    reader, writer = await connect()

    writer.write(EMPTY + 3 * HEALTH)

    await closed(reader)


async def test_some_requests_in_a_row_are_answered_in_their_order(connect, held):
    reader, writer = await connect()

    writer.write(EMPTY + 2 * HEALTH)
    await held.one_begins()
    held.let_go()

    answers = [await answer_of(reader) for _ in range(3)]
    assert answers == [(200, b"{}")] + 2 * [(200, b"alive\n")]


async def test_no_more_is_read_while_requests_wait_for_their_turn(connect, held):
    # Given a request that is worked on, the second of several that came together
    reader, writer = await connect()
    writer.write(3 * EMPTY)
    await held.one_begins()
    held.let_go()
    assert (await answer_of(reader))[0] == 200
    await held.one_begins()

    # When more come than may wait, and the receiver has time to look at them
    writer.write(2 * EMPTY)
    other, other_writer = await connect()
    other_writer.write(HEALTH)
    assert (await answer_of(other))[0] == 200

    # Then they wait outside, and all are answered
    held.let_go(4)
    assert [(await answer_of(reader))[0] for _ in range(4)] == 4 * [200]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_too_many_requests_in_a_row_leave_no_line_in_the_log(receiver, connect, held, caplog):
    """Anyone could fill it. Other loops than that of the process are silent about what nobody gets."""
    # Given a connection that ended because of the requests behind the one that is worked on
    reader, writer = await connect()
    writer.write(EMPTY + 3 * HEALTH)
    await held.one_begins()
    await closed(reader)

    # When this one is answered
    held.let_go()
    async with asyncio.timeout(20):
        while receiver.ingest.running_requests:
            await asyncio.sleep(0.01)

    # Then nothing is said
    other, other_writer = await connect()
    other_writer.write(HEALTH)
    assert (await answer_of(other))[0] == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


PAGE_BYTES = 32 * 1024 * 1024  # more than the system keeps for who does not read


@pytest.fixture
def large_page(monkeypatch):
    """/metrics is larger than what the system and asyncio keep for a connection."""
    page = b"x" * PAGE_BYTES
    monkeypatch.setattr(StatusPages, "_exposed", lambda self, scope: (200, PLAIN_TEXT, page))


@pytest.fixture
def unlimited_buffer(monkeypatch):
    """Nobody is told to wait with writing, as when only the rest of an answer is not read."""
    real = http_server._BoundedProtocol.connection_made

    def connection_made(self, transport):
        transport.set_write_buffer_limits(high=2 * PAGE_BYTES)
        real(self, transport)

    monkeypatch.setattr(http_server._BoundedProtocol, "connection_made", connection_made)


async def ask_and_read_little(receiver, headers=b""):
    """The socket of who asks for the large page."""
    loop = asyncio.get_running_loop()
    host, port = receiver.http_address.rsplit(":", 1)
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    await loop.sock_connect(client, (host, int(port)))
    await loop.sock_sendall(client, b"GET /metrics HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
    assert b" 200 " in await asyncio.wait_for(loop.sock_recv(client, 100), 20)
    return client


async def connections(receiver, number):
    """Return when so many are open."""
    async with asyncio.timeout(20):
        while len(receiver._http_servers[0]._server.server_state.connections) != number:
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("large_page")
async def test_an_answer_that_nobody_reads_ends_its_connection(receiver, monkeypatch):
    monkeypatch.setattr(http_server, "ANSWER_SECONDS", 0.2)

    with await ask_and_read_little(receiver):
        await connections(receiver, 0)


@pytest.mark.usefixtures("large_page", "unlimited_buffer")
@pytest.mark.parametrize("headers", [b"", b"connection: close\r\n"], ids=["kept alive", "closes"])
async def test_the_rest_of_an_answer_does_not_keep_a_connection(start_receiver, monkeypatch, headers):
    monkeypatch.setattr(http_server, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SECONDS", 0.2)
    receiver = await start_receiver()

    with await ask_and_read_little(receiver, headers):
        await connections(receiver, 0)


@pytest.mark.usefixtures("large_page")
async def test_who_has_read_a_large_answer_keeps_the_connection(receiver, connect, monkeypatch):
    # Given a large answer that is read
    monkeypatch.setattr(http_server, "ANSWER_SECONDS", 3)
    reader, writer = await connect()
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
    assert len((await answer_of(reader))[1]) == PAGE_BYTES

    # When a later one, which is not read, has used up its time
    with await ask_and_read_little(receiver):
        await connections(receiver, 2)
        await connections(receiver, 1)

    # Then the first connection takes the next request
    writer.write(HEALTH)
    assert (await answer_of(reader))[0] == 200
