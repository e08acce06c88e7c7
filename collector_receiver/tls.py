"""TLS for both ports from the same files: read and checked before anything listens."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from collector_receiver.settings import InvalidSettings, ReceiverSettings


@dataclass(frozen=True, slots=True)
class Tls:
    """What the servers need to speak TLS 1.2 or newer, and to ask clients for certificates if they must."""

    context: ssl.SSLContext
    credentials: Any
    """`grpc.ServerCredentials`."""


class _Encrypted(Exception):
    """The key asks for a passphrase."""


def load_tls(settings: ReceiverSettings) -> Tls | None:
    """TLS as the settings ask for it; None when they do not. Never less than they ask for.

    Raises:
        InvalidSettings: a file cannot be read or used; names variable, file, problem and remedy.
    """
    certificate, key = settings.otlp_tls_certificate, settings.otlp_tls_key
    if certificate is None or key is None:
        return None
    chain = _read_certificates("OTLP_TLS_CERTIFICATE", certificate)
    key_pem = _read("OTLP_TLS_KEY", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, certificate, key)
    authorities: bytes | None = None
    if settings.otlp_tls_client_ca is not None:
        authorities = _read_certificates("OTLP_TLS_CLIENT_CA", settings.otlp_tls_client_ca)
        context.load_verify_locations(cadata=authorities.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    untyped: Any = grpc
    credentials = untyped.ssl_server_credentials(
        [(key_pem, chain)], root_certificates=authorities, require_client_auth=authorities is not None
    )
    return Tls(context, credentials)


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def passphrase() -> str:
        raise _Encrypted

    try:
        context.load_cert_chain(certificate, key, password=passphrase)
    except _Encrypted:
        raise _bad(
            "OTLP_TLS_KEY",
            key,
            "is protected by a passphrase, which nobody could type at the start; write it without one "
            f"(openssl pkey -in {key.name} -out plain.pem) into a file that only the receiver can read",
        ) from None
    except ssl.SSLError as problem:
        if problem.reason == "KEY_VALUES_MISMATCH":
            what = (
                f"does not belong to the first certificate in {certificate}; the receiver's own comes first"
            )
            raise _bad("OTLP_TLS_KEY", key, what) from None
        if problem.reason in {"EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}:
            what = f"is too weak ({problem.reason}); make one with at least RSA 2048 and SHA-256"
            raise _bad("OTLP_TLS_CERTIFICATE", certificate, what) from None
        raise _bad("OTLP_TLS_KEY", key, "holds no private key in PEM (-----BEGIN PRIVATE KEY-----)") from None


def _read_certificates(variable: str, path: Path) -> bytes:
    content = _read(variable, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError):
        what = "holds no certificate in PEM (-----BEGIN CERTIFICATE-----), or a damaged one"
        raise _bad(variable, path, what) from None
    return content


def _read(variable: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else "is no path"
        what = f"cannot be read ({reason}); correct the path, or let the receiver's user read the file"
        raise _bad(variable, path, what) from None


def _bad(variable: str, path: Path, what: str) -> InvalidSettings:
    return InvalidSettings(f"{variable}={str(path)[:300]}: {what}; see docs/receiver.md")
