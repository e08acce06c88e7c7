"""One run of the whole platform: start in order, announce the first profile, stop in the opposite order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from all_in_one import services
from all_in_one.console import Console
from all_in_one.database import Database, running_database
from all_in_one.demos import Demo
from all_in_one.first_profile import FirstProfileWatch
from all_in_one.interrupts import Interrupts, StopWanted
from all_in_one.launch_settings import LaunchSettings
from all_in_one.ports import LOOPBACK, choose
from all_in_one.services import Addresses
from all_in_one.supervisor import ServiceFailed, Supervisor
from analysis_api.settings import is_loopback

WATCH_SECONDS = 0.2
PATIENCE_SECONDS = 30.0
STOPPED_ON_REQUEST = 0
SERVICE_FAILED = 1


def choose_addresses(settings: LaunchSettings, *, with_demo: bool) -> Addresses:
    """Every address of this run, before anything is started.

    Raises:
        PortsNotAvailable: naming each taken port and the variable that moves it.
    """
    server = settings.server
    wanted = {
        "OTLP_GRPC_PORT": (server.bind_host, server.otlp_grpc_port),
        "OTLP_HTTP_PORT": (server.bind_host, settings.receiver.otlp_http_port),
        "HTTP_PORT": (server.bind_host, server.http_port),
    }
    if with_demo:
        wanted |= {
            "SHOP_PORT": (LOOPBACK, server.shop_port),
            "SUPPLIER_PORT": (LOOPBACK, 0),
        }
    ports = choose(wanted)
    return Addresses(
        bind_host=server.bind_host,
        otlp_grpc_port=ports["OTLP_GRPC_PORT"],
        otlp_http_port=ports["OTLP_HTTP_PORT"],
        http_port=ports["HTTP_PORT"],
        shop_port=ports.get("SHOP_PORT", 0),
        supplier_port=ports.get("SUPPLIER_PORT", 0),
    )


def run(
    settings: LaunchSettings,
    addresses: Addresses,
    console: Console,
    interrupts: Interrupts,
    *,
    data: Path,
    demo: Demo | None,
) -> int:
    """Run everything until a stop signal (0) or until a service fails (1); nothing runs any more on return.

    Raises:
        EmbeddedMongoDBError: the database did not start; nothing else was started.
        StoreError: the database that MONGODB_URL names does not answer; nothing was started.
    """
    exit_code = STOPPED_ON_REQUEST
    try:
        with running_database(settings.store, console, interrupts, data=data) as database:
            supervisor = Supervisor(console, interrupts, logs=data / "logs")
            plan = services.platform_services(settings, addresses, mongodb_url=database.url, data=data)
            if demo:
                plan += services.demo_services(demo, addresses, data=data)
            try:
                for service in plan:
                    supervisor.start(service)
                console.line("\n" + "\n".join(next_steps(addresses, with_demo=demo is not None)))
                _watch(supervisor, database, addresses, console, interrupts, expects_profile=demo is not None)
            except StopWanted:
                pass
            except ServiceFailed as failure:
                console.line(f"\n{failure}")
                exit_code = SERVICE_FAILED
            finally:
                console.line("\nstopping (Ctrl-C again kills)")
                supervisor.stop()
    except StopWanted:
        pass
    place = "the MongoDB that MONGODB_URL names" if settings.store.mongodb_url else data
    console.line(f"everything is stopped; the data are in {place}")
    return exit_code


def next_steps(addresses: Addresses, *, with_demo: bool) -> Iterator[str]:
    """What the person at the terminal can do now, line by line."""
    if is_loopback(addresses.bind_host):
        yield f"Open {addresses.web} in a browser. Ctrl-C stops everything."
    else:
        yield f"{addresses.web} answers only requests with the header Authorization: Bearer <ADMIN_TOKEN>."
        yield "There is no login yet: browsers need a proxy that asks for a password and adds this header."
        yield "Ctrl-C stops everything."
    if not with_demo:
        yield f"Applications send to OTEL_EXPORTER_OTLP_ENDPOINT={addresses.otlp_endpoint}"


def _watch(
    supervisor: Supervisor,
    database: Database,
    addresses: Addresses,
    console: Console,
    interrupts: Interrupts,
    *,
    expects_profile: bool,
) -> None:
    """Look after everything until a stop signal; raises ServiceFailed."""
    profiles = FirstProfileWatch(supervisor.log_of("receiver"))
    deadline = time.monotonic() + PATIENCE_SECONDS if expects_profile else float("inf")
    while not interrupts.stop_wanted:
        database.check()
        supervisor.check()
        for profile in profiles.new():
            console.line(f"\nfirst profile received: {profile.endpoint}\n  {addresses.web}{profile.path}")
            deadline = float("inf")
        if time.monotonic() > deadline:
            console.line(
                f"no profile within {PATIENCE_SECONDS:.0f} s; {supervisor.log_of('shop')} and"
                f" {supervisor.log_of('receiver')} may say why"
            )
            deadline = float("inf")
        time.sleep(WATCH_SECONDS)
