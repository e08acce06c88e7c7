"""The health check of the receiver's container."""

from __future__ import annotations

import socket

import pytest

from collector_receiver import probe


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_nobody_is_not_healthy_and_the_address_is_told(host, free_port, monkeypatch, capsys) -> None:
    monkeypatch.setenv("BIND_HOST", host)
    monkeypatch.setenv("INGEST_MODE", "open")
    monkeypatch.setenv("OTLP_GRPC_PORT", str(free_port))

    assert probe.main() == 1
    assert capsys.readouterr().err == f"127.0.0.1:{free_port}: UNAVAILABLE\n"


def test_a_bad_setting_is_told(monkeypatch, capsys) -> None:
    monkeypatch.setenv("OTLP_GRPC_PORT", "shop")

    assert probe.main() == 1
    assert capsys.readouterr().err.startswith("OTLP_GRPC_PORT=shop")
