"""`otel-pyinstrument verify` as a user runs it, against the real receiver, API and database."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from all_in_one import services
from all_in_one.console import Console
from all_in_one.interrupts import Interrupts
from all_in_one.launch import choose_addresses
from all_in_one.launch_settings import LaunchSettings
from all_in_one.supervisor import Supervisor
from profile_store import StoreSettings, open_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BIN = Path(sys.executable).parent
WRONG_KEY = "opk_" + "w" * 32


@pytest.fixture
def start_platform(tmp_path, monkeypatch, mongodb_url, mongodb_database):
    """Function (ingest_mode) -> addresses of a receiver and a server over one database."""
    (tmp_path / "logs").mkdir()
    supervisor = Supervisor(Console(sys.stdout), Interrupts(), logs=tmp_path / "logs")

    def start(ingest_mode: str = "open"):
        for name in ("OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "HTTP_PORT"):
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("MONGODB_DATABASE", mongodb_database)
        monkeypatch.setenv("INGEST_MODE", ingest_mode)
        settings = LaunchSettings.from_environment()
        addresses = choose_addresses(settings, with_demo=False)
        for service in services.platform_services(
            settings, addresses, mongodb_url=mongodb_url, data=tmp_path
        ):
            supervisor.start(service)
        return addresses

    yield start
    supervisor.stop()


@pytest.fixture
def project_key(mongodb_url, mongodb_database) -> str:
    """The key of a project that exists."""

    async def create() -> str:
        settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
        async with open_store(settings) as store:
            return (await store.create_project("checkout")).project_key

    return asyncio.run(create())


def verify(*arguments: str, command: tuple[str, ...] = (), **variables: str):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "INGEST_MODE", "MONGODB_"))
    } | {
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "OTEL_SERVICE_NAME": "my-shop",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        **variables,
    }
    return subprocess.run(
        [*command, "otel-pyinstrument", "verify", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def lines(run, title: str) -> list[tuple[str, str]]:
    """Kind and finding of each line with this title."""
    found = re.findall(rf"^(\w+) +{title}  +(.*)$", run.stdout, re.MULTILINE)
    assert found, f"no line '{title}' in:\n{run.stdout}\n{run.stderr}"
    return found


def test_a_right_integration_is_found_right_from_the_process_to_the_record_page(start_platform) -> None:
    # Given a platform in open mode, and the environment of a service with the default settings
    addresses = start_platform()

    # When
    run = verify(
        OTEL_EXPORTER_OTLP_ENDPOINT=addresses.otlp_endpoint, OTEL_PYINSTRUMENT_PLATFORM_URL=addresses.web
    )

    # Then nothing is wrong, nothing was left out, and the link leads to the record's page
    assert run.returncode == 0, run.stdout + run.stderr
    assert "problem" not in run.stdout
    assert "not checked" not in run.stdout
    assert "\x1b" not in run.stdout + run.stderr
    assert lines(run, "result") == [("ok", "everything works")]
    assert lines(run, "clock")[0][0] == "ok"
    kind, finding = lines(run, "record")[0]
    assert (kind, "call tree" in finding) == ("ok", True)
    link = run.stdout.split("with its call tree:")[1].split()[0]
    assert re.fullmatch(rf"{re.escape(addresses.web)}/projects/[0-9a-f]{{24}}/records/[0-9a-f]{{48}}", link)
    page = subprocess.run(
        [sys.executable, "-c", "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read())", link],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "otel-pyinstrument/verify" in page


def test_it_works_under_opentelemetry_instrument_too(start_platform) -> None:
    # Given / When the command itself is instrumented, as the service is
    addresses = start_platform()
    run = verify(
        *("--platform-url", addresses.web),
        command=("opentelemetry-instrument",),
        OTEL_EXPORTER_OTLP_ENDPOINT=addresses.otlp_endpoint,
    )

    # Then its provider is taken
    assert run.returncode == 0, run.stdout + run.stderr
    assert "opentelemetry-instrument has made one" in run.stdout
    assert lines(run, "record")[0][0] == "ok"


def test_a_sampler_that_drops_nearly_all_lets_the_test_request_through(start_platform) -> None:
    # Given
    addresses = start_platform()

    # When
    run = verify(
        *("--platform-url", addresses.web),
        OTEL_EXPORTER_OTLP_ENDPOINT=addresses.otlp_endpoint,
        OTEL_TRACES_SAMPLER="traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.0001",
        OTEL_PYINSTRUMENT_RATE="0.0001",
        OTEL_PYINSTRUMENT_INCLUDE="/orders/*",
    )

    # Then
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_right_key_is_taken_and_never_printed(start_platform, project_key) -> None:
    # Given a receiver that takes nothing without a key
    addresses = start_platform("key")

    # When the key goes with the data, and is the one for the rules
    run = verify(
        OTEL_EXPORTER_OTLP_ENDPOINT=addresses.otlp_endpoint,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-project-key={project_key}",
        OTEL_PYINSTRUMENT_PLATFORM_URL=addresses.web,
        OTEL_PYINSTRUMENT_PROJECT_KEY=project_key,
    )

    # Then
    assert run.returncode == 0, run.stdout + run.stderr
    assert {kind for kind, _ in lines(run, "project key")} == {"ok"}
    assert "checkout" in run.stdout
    assert project_key not in run.stdout + run.stderr


@pytest.mark.parametrize("headers", ["", f"x-project-key={WRONG_KEY}"], ids=["no key", "wrong key"])
def test_a_missing_or_wrong_key_is_said_with_the_way_to_set_it(start_platform, headers) -> None:
    # Given
    addresses = start_platform("key")

    # When
    run = verify(
        *("--platform-url", addresses.web),
        OTEL_EXPORTER_OTLP_ENDPOINT=addresses.otlp_endpoint,
        OTEL_EXPORTER_OTLP_HEADERS=headers,
    )

    # Then
    assert run.returncode == 1
    kind, finding = lines(run, "endpoint")[0]
    assert kind == "problem"
    assert "UNAUTHENTICATED" in finding
    assert "OTEL_EXPORTER_OTLP_HEADERS=x-project-key=" in finding
    if headers:
        assert "knows no project with the key of the header x-project-key" in run.stdout
    assert WRONG_KEY not in run.stdout + run.stderr


def test_a_record_that_went_elsewhere_is_missed_within_the_time_limit(start_platform, project_key) -> None:
    # Given / When the record is looked for in another project than the one it went to
    addresses = start_platform()
    run = verify(
        *("--platform-url", addresses.web, "--project", "checkout", "--timeout", "2"),
        OTEL_EXPORTER_OTLP_ENDPOINT=addresses.otlp_endpoint,
    )

    # Then
    assert run.returncode == 1
    assert re.search(r"checkout does not show it after \d s", lines(run, "record")[0][1])
    assert "waiting for the record" in run.stderr


def test_it_works_behind_a_collector(start_platform, start_collector) -> None:
    # Given a standard Collector between service and platform
    addresses = start_platform()
    collector = start_collector(addresses.otlp_endpoint.removeprefix("http://"))

    # When
    for protocol, endpoint in (
        ("grpc", f"http://{collector.grpc_endpoint}"),
        ("http/protobuf", collector.http_endpoint),
    ):
        run = verify(
            *("--platform-url", addresses.web),
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=protocol,
        )

        # Then
        assert run.returncode == 0, run.stdout + run.stderr
        assert lines(run, "record")[0][0] == "ok"
