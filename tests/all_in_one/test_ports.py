"""Busy ports are told before anything starts."""

from __future__ import annotations

import socket

import pytest

from all_in_one.ports import PortsNotAvailable, accepts_connections, choose

HOST = "127.0.0.1"


@pytest.fixture
def busy_port():
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


def test_every_busy_port_is_named_with_its_variable_and_the_remedy(busy_port) -> None:
    with pytest.raises(PortsNotAvailable) as problem:
        choose({"HTTP_PORT": (HOST, busy_port), "SHOP_PORT": (HOST, 0), "OTLP_GRPC_PORT": (HOST, busy_port)})

    lines = str(problem.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"HTTP_PORT={busy_port}",
        f"OTLP_GRPC_PORT={busy_port}",
    ]
    assert all(
        line.endswith(f": port {busy_port} on {HOST} is in use; set another one (0: any free port)")
        for line in lines
    )


def test_the_same_port_for_two_purposes_is_refused(busy_port) -> None:
    free = choose({"any": (HOST, 0)})["any"]

    with pytest.raises(PortsNotAvailable) as problem:
        choose({"HTTP_PORT": (HOST, free), "SHOP_PORT": (HOST, free)})

    assert str(problem.value) == (
        f"SHOP_PORT={free}: HTTP_PORT is the same port; give one of the two another (0: any free port)"
    )


def test_zero_takes_a_free_port_each_time_another_one() -> None:
    ports = choose(dict.fromkeys("abcdef", (HOST, 0)))

    assert len(set(ports.values())) == 6
    assert not accepts_connections(HOST, ports["a"])


def test_a_host_of_another_machine_is_named_with_the_remedy() -> None:
    told = r"^BIND_HOST=192\.0\.2\.1: this machine cannot listen there \(.+\); use BIND_HOST=127\.0\.0\.1$"
    with pytest.raises(PortsNotAvailable, match=told):
        choose({"HTTP_PORT": ("192.0.2.1", 0)})


def test_a_listening_port_accepts_connections(busy_port) -> None:
    assert accepts_connections(HOST, busy_port)
