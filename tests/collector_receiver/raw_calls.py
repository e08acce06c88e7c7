"""gRPC calls written byte by byte, as no gRPC library would send them."""

import asyncio
import struct

import h2.config
import h2.connection
import hpack
from hyperframe.frame import Frame, HeadersFrame

EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
FRAME_HEAD_BYTES = 9


def message(body, *, length=None, compressed=False):
    """A message of gRPC over HTTP/2; it may announce another length than it has."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


class RawCall:
    """One call on a connection of its own."""

    @classmethod
    async def begin(cls, address, data, *, whole=True, method=EXPORT_TRACES, **headers):
        """Send `data` (at most 16 KiB), and nothing more afterwards when that is the `whole` of it."""
        call = cls()
        call._reader, call._writer = await asyncio.open_connection(*address.rsplit(":", 1))
        call._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        call._http2.initiate_connection()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": address,
            "content-type": "application/grpc",
            "te": "trailers",
        }
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        call._http2.send_headers(1, fields.items())
        call._http2.send_data(1, data, end_stream=whole)
        call._flush()
        return call

    def _flush(self):
        self._writer.write(self._http2.data_to_send())

    def cancel(self):
        """As a client does whose time is over."""
        self._http2.reset_stream(1, error_code=8)
        self._flush()

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
