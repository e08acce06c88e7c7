"""The processes of `python -m all_in_one`: the very commands a user would type, and their environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from all_in_one.demos import Demo
from all_in_one.launch_settings import LaunchSettings
from all_in_one.ports import LOOPBACK, accepts_connections

CHECKOUT = Path(__file__).resolve().parent.parent
LOAD_PER_SECOND = 3
LOAD_REQUESTS = 10_000
FOREIGN_SETTINGS = (
    *("OTEL_", "GUNICORN_CMD_ARGS", "FLASK_", "DJANGO_", "UVICORN_", "WEB_CONCURRENCY"),
    *("SHOP_", "SUPPLIER_URL"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process to run. `address` is what people are shown; `is_ready` is asked until it is True.

    `may_end`: exit code 0 is no failure. `without_it`: the rest goes on when it ends in another way, and
    this says what is missing then.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path = CHECKOUT
    address: str
    is_ready: Callable[[], bool] = field(default=lambda: True)
    remedy: str
    may_end: bool = False
    without_it: str = ""
    stop_seconds: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where everything of this run listens; every port is a real one."""

    bind_host: str
    otlp_grpc_port: int
    otlp_http_port: int
    http_port: int
    shop_port: int
    supplier_port: int

    @property
    def otlp_endpoint(self) -> str:
        """Where applications on this machine send their spans."""
        return f"http://{_bracketed(self.local_host)}:{self.otlp_grpc_port}"

    @property
    def otlp_http_endpoint(self) -> str:
        """The same for applications that speak OTLP/HTTP."""
        return f"http://{_bracketed(self.local_host)}:{self.otlp_http_port}"

    @property
    def web(self) -> str:
        """Where a browser on this machine finds the web interface."""
        return f"http://{_bracketed(self.local_host)}:{self.http_port}"

    @property
    def local_host(self) -> str:
        """The bind host, or loopback when that stands for every address."""
        return {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(self.bind_host, self.bind_host)  # noqa: S104 - compared, not bound


def platform_services(
    settings: LaunchSettings, addresses: Addresses, *, mongodb_url: str, data: Path
) -> list[Service]:
    """Receiver and server, in the order to start them."""
    environment = clean_environment() | {
        "BIND_HOST": addresses.bind_host,
        "OTLP_GRPC_PORT": str(addresses.otlp_grpc_port),
        "OTLP_HTTP_PORT": str(addresses.otlp_http_port),
        "HTTP_PORT": str(addresses.http_port),
        "MONGODB_URL": mongodb_url,
        "DATA_DIR": str(data),
        # Logs are files here, and the receiver's must hold the line about the first profile.
        "LOG_LEVEL": "DEBUG" if settings.server.log_level == "DEBUG" else "INFO",
    }
    host = addresses.local_host
    return [
        Service(
            name="receiver",
            command=[sys.executable, "-m", "collector_receiver"],
            environment=environment,
            address=f"{addresses.otlp_endpoint} (OTLP/gRPC), {addresses.otlp_http_endpoint} (OTLP/HTTP)",
            is_ready=lambda: accepts_connections(host, addresses.otlp_grpc_port),
            remedy="Correct what its log says, then start again: nothing that was acknowledged is lost.",
        ),
        Service(
            name="web",
            command=[sys.executable, "-m", "all_in_one.server"],
            environment=environment,
            address=f"{addresses.web} (API under /api/v1)",
            is_ready=lambda: accepts_connections(host, addresses.http_port),
            remedy="Correct what its log says, then start again: the data are kept.",
        ),
    ]


def demo_services(demo: Demo, addresses: Addresses, *, data: Path) -> list[Service]:
    """The supplier, the shop as a user would run it, and its visitors, in the order to start them."""
    supplier = f"http://{LOOPBACK}:{addresses.supplier_port}"
    shop = f"http://{LOOPBACK}:{addresses.shop_port}"
    without_demo = "The platform runs without the demo: python -m all_in_one --demo none"
    return [
        Service(
            name="supplier",
            command=[sys.executable, "supplier_stub.py", "--port", str(addresses.supplier_port)],
            environment=clean_environment(),
            directory=CHECKOUT / "examples",
            address=supplier,
            is_ready=lambda: accepts_connections(LOOPBACK, addresses.supplier_port),
            remedy=without_demo,
            without_it="the shop's availability pages fail",
            stop_seconds=5.0,
        ),
        Service(
            name="shop",
            command=demo.command(addresses.shop_port),
            environment=clean_environment()
            | {"SHOP_DATABASE": str(data / "demo" / f"{demo.service_name}.sqlite3"), "SUPPLIER_URL": supplier}
            | demo.telemetry(addresses.otlp_endpoint)
            | dict(demo.environment),
            directory=CHECKOUT / "examples",
            address=f"{shop} ({demo.title})",
            is_ready=lambda: accepts_connections(LOOPBACK, addresses.shop_port),
            remedy=without_demo,
            stop_seconds=20.0,
        ),
        Service(
            name="visitors",
            command=[
                *(sys.executable, "-m", "all_in_one.demo_load", demo.name, shop),
                *("--per-second", str(LOAD_PER_SECOND), "--requests", str(LOAD_REQUESTS)),
            ],
            environment=clean_environment(),
            address=f"{LOAD_PER_SECOND} requests per second, {LOAD_REQUESTS:,} at most",
            remedy=without_demo,
            may_end=True,
            without_it="nobody visits the shop any more, except you",
            stop_seconds=10.0,
        ),
    ]


def clean_environment() -> dict[str, str]:
    """The user's environment without what was meant for other programs.

    `OTEL_*` of the shell belongs to another service, a proxy must not carry what stays on this machine, and
    the commands of this Python come first.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
    local = ",".join(
        filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "localhost,127.0.0.1,::1"])
    )
    commands = str(Path(sys.executable).parent)
    return kept | {
        "PATH": os.pathsep.join(filter(None, [commands, os.environ.get("PATH")])),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": local,
        "no_proxy": local,
    }


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
