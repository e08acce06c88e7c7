"""Ports for servers that a test starts itself, in other processes."""

from __future__ import annotations

import os
import random
import socket

_FIRST = 20_000
_OF_ONE_WORKER = 3_000


def find_free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that nobody else is given between now and the start of the server.

    Below the range that Linux takes outgoing connections and port 0 from (32768 and up): a client that tries
    to reach a stopped server there can be given that very port, connect to itself and keep it, and another
    server can. Each process of a run in several has a range of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker * _OF_ONE_WORKER
    ports = []
    for port in random.sample(range(first, first + _OF_ONE_WORKER), 1000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"no {count} free ports from {first} on 127.0.0.1")
