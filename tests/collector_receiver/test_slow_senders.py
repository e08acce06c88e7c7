"""Senders that trickle their bodies: they occupy little, keep nobody out and do not hold up a stop."""

import asyncio
import struct
import time

import h2.config
import h2.connection
import hpack
import pytest
from hyperframe.frame import Frame, HeadersFrame

from collector_receiver import arrivals, grpc_services

pytestmark = pytest.mark.anyio

FRAME_HEAD_BYTES = 9
EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class TricklingCall:
    """A gRPC call that announces a large message and sends little of it."""

    @classmethod
    async def begin(cls, address, announced=1_000_000, sent=100):
        call = cls()
        call._reader, call._writer = await asyncio.open_connection(*address.rsplit(":", 1))
        call._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        call._http2.initiate_connection()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": EXPORT_TRACES,
            ":authority": address,
            "content-type": "application/grpc",
            "te": "trailers",
        }
        call._http2.send_headers(1, headers.items())
        call._http2.send_data(1, struct.pack(">BI", 0, announced) + b"\x00" * sent)
        call._flush()
        return call

    def _flush(self):
        self._writer.write(self._http2.data_to_send())

    async def status(self):
        """Trailers of the answer; None when the connection ends without one."""
        trailers, received, decoder = {}, b"", hpack.Decoder()
        while data := await self._reader.read(65_536):
            received += data
            while len(received) >= FRAME_HEAD_BYTES:
                frame, length = Frame.parse_frame_header(memoryview(received[:FRAME_HEAD_BYTES]))
                end = FRAME_HEAD_BYTES + length
                if len(received) < end:
                    break
                frame.parse_body(memoryview(received[FRAME_HEAD_BYTES:end]))
                received = received[end:]
                if isinstance(frame, HeadersFrame):
                    trailers |= dict(decoder.decode(frame.data))
                    if "END_STREAM" in frame.flags:
                        return trailers
        return None

    def close(self):
        self._writer.close()


async def arriving(receiver, bytes_in_flight):
    async with asyncio.timeout(20):
        while receiver.ingest.admission.bytes_in_flight < bytes_in_flight:
            await asyncio.sleep(0.01)


async def test_grpc_calls_that_trickle_do_not_keep_others_out(start_receiver, make, monkeypatch):
    # Given as many calls that trickle as messages may arrive at one time
    monkeypatch.setattr(grpc_services, "ARRIVING_BYTES", 0)
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.2)
    receiver = await start_receiver()
    slow = []
    for number in (1, 2):
        slow.append(await TricklingCall.begin(receiver.client.address))
        await arriving(receiver, number * 16_384)

    # When others send
    for _ in range(5):
        await receiver.client.export(make.request(make.span()))

    # Then they are taken, and the oldest, who was given up for them, may come again
    trailers = await asyncio.wait_for(slow[0].status(), 20)
    assert trailers["grpc-status"] == "14"
    assert "google.rpc.retryinfo-bin" in trailers
    assert receiver.ingest.counters.retryable["slow_body"] >= 1
    for call in slow:
        call.close()
    async with asyncio.timeout(20):
        while receiver.ingest.admission.bytes_in_flight:
            await asyncio.sleep(0.01)


async def test_a_full_receiver_refuses_a_call_before_its_message_comes(receiver):
    busy = receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes)

    call = await TricklingCall.begin(receiver.client.address, announced=10_000_000)

    trailers = await asyncio.wait_for(call.status(), 20)
    assert trailers["grpc-status"] == "14"
    busy.leave()
    call.close()


async def test_a_full_receiver_refuses_a_request_before_its_body_comes(receiver):
    busy = receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes - 1_000_000)
    reader, writer = await asyncio.open_connection(*receiver.http_address.rsplit(":", 1))
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
        b"content-length: 2000000\r\nexpect: 100-continue\r\n\r\n"
    )

    status = await asyncio.wait_for(reader.readline(), 20)

    assert b" 503 " in status
    busy.leave()
    writer.close()


async def test_stopping_is_bounded_with_senders_that_trickle(start_receiver):
    # Given senders that trickle over both protocols, one byte now and then
    receiver = await start_receiver()
    calls = [await TricklingCall.begin(receiver.client.address) for _ in range(3)]
    reader, writer = await asyncio.open_connection(*receiver.http_address.rsplit(":", 1))
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 100000\r\n\r\n{"
    )
    await arriving(receiver, 3 * 16_384 + 1)

    async def trickle():
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())

    # When it stops, with much time for requests
    first_line = asyncio.create_task(reader.readline())  # at once: what is sent to a closed port is reset
    started = time.monotonic()
    await receiver.stop(60)
    took = time.monotonic() - started

    # Then it does not wait for bodies that do not come, and who sends may come again
    assert took < 30
    assert b" 503 " in await asyncio.wait_for(first_line, 20)
    for call in calls:
        assert (await asyncio.wait_for(call.status(), 20))["grpc-status"] == "14"
        call.close()
    trickling.cancel()
    await asyncio.wait({trickling})
    writer.close()
