"""The ports we are about to use: which are taken, and what to do about it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"
TAKEN = (errno.EADDRINUSE, errno.EACCES)


class PortsNotAvailable(Exception):
    """One line per port, each naming the variable that moves it."""


def choose(wanted: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """The port for each name: as wanted on its host, or any free one for 0.

    A name is the variable that moves the port. All are held together while we look, so that no number is
    given twice, and are free again on return.

    Raises:
        PortsNotAvailable: with one line for each port that cannot be had.
    """
    found: dict[str, int] = {}
    problems: list[str] = []
    with ExitStack() as held:
        for variable, (host, port) in wanted.items():
            try:
                listener = held.enter_context(_listen(host, port))
            except OSError as error:
                rival = next((name for name in found if wanted[name][1] == port), None)
                problems.append(_remedy(error, host, variable, port, rival))
            else:
                found[variable] = listener.getsockname()[1]
    if problems:
        raise PortsNotAvailable("\n".join(problems))
    return found


def accepts_connections(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            # Linux may give a client the very port it asks for, connected to itself.
            return connection.getsockname() != connection.getpeername()
    except OSError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As servers do: a port in TIME_WAIT is not taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def _remedy(error: OSError, host: str, variable: str, port: int, rival: str | None) -> str:
    if error.errno == errno.EADDRINUSE and rival is not None:
        return f"{variable}={port}: {rival} is the same port; give one of the two another (0: any free port)"
    if error.errno in TAKEN:
        reason = "is in use" if error.errno == errno.EADDRINUSE else "needs more rights than you have"
        return f"{variable}={port}: port {port} on {host} {reason}; set another one (0: any free port)"
    return f"BIND_HOST={host}: this machine cannot listen there ({error.strerror}); use BIND_HOST=127.0.0.1"
