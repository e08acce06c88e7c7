"""What is told of an address that cannot be used. Never its user and password."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import parse_qsl

from pydantic import SecretStr
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from profile_store.contracts import InvalidStoreSettings

FORM = "mongodb://user:password@host:27017/?replicaSet=rs0"


@contextmanager
def readable(variable: str, url: SecretStr) -> Generator[None]:
    """Around what makes the driver read the address, and the files for TLS that it names.

    The cause is cut off on purpose: the message of the driver may repeat the address with its password.

    Raises:
        InvalidStoreSettings: it cannot; names variable, problem and remedy.
    """
    try:
        yield
    except (OSError, PyMongoError, ValueError) as error:
        raise InvalidStoreSettings(
            f"{variable} is not usable: {_problem(url.get_secret_value(), error)}"
        ) from None


def hosts_of(url: str) -> list[tuple[str, int | None]]:
    """The servers that a readable address names; none of mongodb+srv, which names a list of them."""
    if url.startswith("mongodb+srv://"):
        return []
    return parse_uri(url, validate=False)["nodelist"]


def _problem(url: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return _no_pem(url, "tlsCAFile", "tlsCRLFile")
    if isinstance(error, OSError):
        return (
            f"its file {str(error.filename)[:300]} cannot be read ({error.strerror})."
            " Correct the path, or let this user read the file."
        )
    if str(error).startswith("Private key doesn't match certificate"):
        return _no_pem(url, "tlsCertificateKeyFile")
    return (
        f"the driver raised {type(error).__name__}. It looks like {FORM}, with user and password"
        " percent-encoded and a port of at most 65535."
    )


def _no_pem(url: str, *options: str) -> str:
    """The driver does not say which of its files it means."""
    wanted = {option.lower() for option in options}
    given = [
        f"{name}={path[:300]}" for name, path in parse_qsl(url.partition("?")[2]) if name.lower() in wanted
    ]
    return f"{' or '.join(given)} holds nothing usable in PEM (-----BEGIN ...-----). Name another file."
