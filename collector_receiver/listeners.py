"""Sockets to listen on, and the error that names the remedy when that is not possible."""

from __future__ import annotations

import socket


class PortBusy(Exception):
    """The address cannot be listened on. One line with the remedy."""


def listen(
    host: str, port: int, *, variable: str, host_variable: str = "BIND_HOST", shared: bool
) -> socket.socket:
    """A listening socket; `shared` with the other processes of this receiver.

    Raises:
        PortBusy: another program listens there, or the address is not of this machine.
    """
    listener = bind(host, port, variable=variable, host_variable=host_variable, shared=shared)
    try:
        # Now, not when uvicorn begins to serve: Linux lets two sockets bind one port, but not listen on it.
        listener.listen()
    except OSError:
        listener.close()
        raise busy(variable, host, port, host_variable) from None
    return listener


def bind(
    host: str, port: int, *, variable: str, host_variable: str = "BIND_HOST", shared: bool
) -> socket.socket:
    """A socket that has the address and does not listen.

    Raises:
        PortBusy: as above.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError:
        raise busy(variable, host, port, host_variable) from None
    try:
        # As servers do: a port in TIME_WAIT is not taken.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise busy(variable, host, port, host_variable) from None
    return bound


def busy(variable: str, host: str, port: int, host_variable: str = "BIND_HOST") -> PortBusy:
    """The error for one port."""
    return PortBusy(
        f"{variable}={port}: cannot listen on {shown(host)}:{port}; stop the program that uses it, set "
        f"{variable} to a free port (0 finds one), or check {host_variable}"
    )


def shown(host: str) -> str:
    """`host` as it stands before a port."""
    return f"[{host}]" if ":" in host else host
