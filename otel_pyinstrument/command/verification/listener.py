"""Who listens at an address: asked with plain sockets, when an exporter could not deliver there."""

from __future__ import annotations

import enum
import socket
import ssl
from typing import NamedTuple

# RFC 9113, section 3.4: what a client that knows the server speaks HTTP/2 begins with, and empty SETTINGS.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_FRAME_HEADER_BYTES = 9
_SETTINGS = 4


class Speaks(enum.Enum):
    """What answered."""

    UNRESOLVED = "the name is not known"
    REFUSED = "nobody listens"
    SILENT = "no answer"
    TLS = "TLS"
    HTTP1 = "HTTP/1"
    HTTP2 = "HTTP/2 without TLS"
    UNKNOWN = "something else"


class Listener(NamedTuple):
    """`detail` says more, for example why a certificate is not trusted; may be empty."""

    speaks: Speaks
    detail: str = ""


def listener_at(host: str, port: int, *, timeout_seconds: float, ca_file: str | None = None) -> Listener:
    """What listens there. Opens up to four connections and never raises."""
    try:
        first = _answer_to(_HTTP2_PREFACE, host, port, timeout_seconds)
    except socket.gaierror as error:
        return Listener(Speaks.UNRESOLVED, str(error.strerror or error))
    except ConnectionRefusedError as error:
        return Listener(Speaks.REFUSED, str(error.strerror or error))
    except (OSError, UnicodeError) as error:
        return Listener(Speaks.SILENT, str(getattr(error, "strerror", None) or error))
    if len(first) >= _FRAME_HEADER_BYTES and first[3] == _SETTINGS and first[5:9] == b"\0\0\0\0":
        return Listener(Speaks.HTTP2)
    # Before HTTP/1: some servers with TLS answer plain bytes with an HTTP/1 page about the mistake.
    if _speaks_tls(host, port, timeout_seconds):
        return Listener(Speaks.TLS, _distrust(host, port, timeout_seconds, ca_file))
    if first.startswith(b"HTTP/1") or _speaks_http1(host, port, timeout_seconds):
        return Listener(Speaks.HTTP1)
    return Listener(Speaks.UNKNOWN)


def _answer_to(sent: bytes, host: str, port: int, timeout_seconds: float) -> bytes:
    """The first bytes that come back; empty when the connection is closed without any.

    Raises:
        OSError: no connection, or no answer in time.
    """
    with socket.create_connection((host, port), timeout_seconds) as connection:
        received = b""
        try:
            connection.sendall(sent)
            while len(received) < _FRAME_HEADER_BYTES and (more := connection.recv(256)):
                received += more
        except ConnectionError:
            pass
        return received


def _speaks_http1(host: str, port: int, timeout_seconds: float) -> bool:
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        return _answer_to(request.encode("ascii", "replace"), host, port, timeout_seconds).startswith(
            b"HTTP/1"
        )
    except OSError:
        return False


def _speaks_tls(host: str, port: int, timeout_seconds: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent over this connection: it only shows whether there is TLS at all.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    return _handshake(context, host, port, timeout_seconds) == ""


def _distrust(host: str, port: int, timeout_seconds: float, ca_file: str | None) -> str:
    """Why the certificate is not trusted; empty when it is."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        return f"the file of trusted certificates cannot be read: {error}"
    return _handshake(context, host, port, timeout_seconds)


def _handshake(context: ssl.SSLContext, host: str, port: int, timeout_seconds: float) -> str:
    try:
        with (
            socket.create_connection((host, port), timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message or str(error)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
