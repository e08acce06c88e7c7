"""The commands and environments of the services."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from all_in_one.__main__ import main
from all_in_one.demos import DEMOS, DJANGO, FLASK
from all_in_one.launch import next_steps
from all_in_one.launch_settings import BadSettings, LaunchSettings
from all_in_one.services import Addresses, clean_environment, demo_services, platform_services

ADDRESSES = Addresses(
    bind_host="127.0.0.1",
    otlp_grpc_port=4317,
    otlp_http_port=4318,
    http_port=8000,
    shop_port=8080,
    supplier_port=8081,
)


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_the_shells_otel_variables_do_not_reach_the_demo(demo, monkeypatch) -> None:
    # Given a shell that is set up for somebody's own service
    foreign = {
        "OTEL_SERVICE_NAME": "billing",
        "OTEL_SDK_DISABLED": "true",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
        "GUNICORN_CMD_ARGS": "--bind 0.0.0.0:80",
        "UVICORN_HOST": "0.0.0.0",
        "WEB_CONCURRENCY": "50",
        "DJANGO_SETTINGS_MODULE": "billing.settings",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)

    # When the environments are made
    services = demo_services(demo, ADDRESSES, data=Path("/data"))
    shop = next(service for service in services if service.name == "shop").environment

    # Then none of it is left, and the demo has its own
    assert shop["OTEL_SERVICE_NAME"] == f"{demo.name}-shop"
    assert shop["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4317"
    for service in services:
        assert not set(foreign.items()) & set(service.environment.items())
        assert not {"OTEL_SDK_DISABLED", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"} & set(service.environment)


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_each_demo_is_started_as_a_user_would_and_its_line_says_what_it_is(demo) -> None:
    shop = demo_services(demo, ADDRESSES, data=Path("/data"))[1]

    assert shop.command[0] == "opentelemetry-instrument"
    assert shop.command[-1].startswith(f"{demo.name}_shop.")
    assert any("8080" in argument for argument in shop.command)
    assert shop.address.startswith("http://127.0.0.1:8080 (")
    assert demo.name in shop.address.lower()
    assert shop.environment["SHOP_DATABASE"] == f"/data/demo/{demo.name}-shop.sqlite3"


@pytest.mark.parametrize("demo", [FLASK, DJANGO], ids=["flask", "django"])
def test_the_wsgi_demos_run_in_gunicorn_in_two_workers_of_several_threads(demo) -> None:
    command = demo_services(demo, ADDRESSES, data=Path("/data"))[1].command

    assert command[1] == "gunicorn"
    options = dict(pairwise(command))
    assert options["--worker-class"] == "gthread"
    assert options["--workers"] == "2"
    assert int(options["--threads"]) > 1


def test_an_unknown_demo_is_refused_with_the_list(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["all_in_one", "--demo", "rails"])

    with pytest.raises(SystemExit) as end:
        main()

    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "'rails'" in told
    assert all(name in told for name in (*DEMOS, "none"))


def test_what_stays_on_this_machine_passes_no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")

    environment = clean_environment()

    assert environment["NO_PROXY"] == environment["no_proxy"] == "example.org,localhost,127.0.0.1,::1"


def test_the_receivers_log_holds_the_line_about_the_first_profile_whatever_the_level(monkeypatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")

    services = platform_services(
        LaunchSettings.from_environment(), ADDRESSES, mongodb_url="mongodb://x", data=Path("/data")
    )

    assert [service.environment["LOG_LEVEL"] for service in services] == ["INFO", "INFO"]


@pytest.mark.parametrize(
    ("bind_host", "web"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
    ],
)
def test_people_are_shown_an_address_that_they_can_open(bind_host, web) -> None:
    addresses = Addresses(
        bind_host=bind_host,
        otlp_grpc_port=4317,
        otlp_http_port=4318,
        http_port=8000,
        shop_port=0,
        supplier_port=0,
    )

    assert addresses.web == web


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HTTP_PORT", "web", "HTTP_PORT=web: "),
        ("SHOP_PORT", "70000", "SHOP_PORT=70000: "),
        ("INGEST_MODE", "closed", "INGEST_MODE=closed: "),
        ("MONGODB_URL", "postgres://user:secret@db", "MONGODB_URL=***: "),
    ],
)
def test_a_bad_setting_is_told_before_anything_starts(variable, value, told, monkeypatch) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(BadSettings) as problem:
        LaunchSettings.from_environment()

    assert str(problem.value).startswith(told)


def test_an_address_that_others_reach_needs_a_decision_first(monkeypatch) -> None:
    monkeypatch.setenv("BIND_HOST", "0.0.0.0")
    monkeypatch.delenv("INGEST_MODE", raising=False)

    with pytest.raises(BadSettings, match="INGEST_MODE=key"):
        LaunchSettings.from_environment()


def test_an_address_that_others_reach_needs_a_token(monkeypatch) -> None:
    # Given an address that others reach
    monkeypatch.setenv("BIND_HOST", "0.0.0.0")
    monkeypatch.setenv("INGEST_MODE", "key")
    monkeypatch.delenv("ADMIN_TOKEN", raising=False)

    # When there is no token, then nobody could use the web interface, which is told at once
    with pytest.raises(
        BadSettings, match=r"^BIND_HOST=0\.0\.0\.0: .*set ADMIN_TOKEN .*BIND_HOST=127\.0\.0\.1$"
    ):
        LaunchSettings.from_environment()

    # When there is one, then it may start
    monkeypatch.setenv("ADMIN_TOKEN", "0123456789abcdef")
    assert LaunchSettings.from_environment().server.bind_host == "0.0.0.0"


def test_the_demo_does_not_start_where_only_tls_is_spoken(monkeypatch) -> None:
    monkeypatch.setenv("OTLP_TLS_CERTIFICATE", "/etc/tls/server.pem")
    monkeypatch.setenv("OTLP_TLS_KEY", "/etc/tls/server.key")

    with pytest.raises(BadSettings, match=r"^OTLP_TLS_CERTIFICATE=/etc/tls/server.pem: .*--demo none"):
        LaunchSettings.from_environment(with_demo=True)

    assert LaunchSettings.from_environment(with_demo=False).receiver.otlp_tls_key is not None


def test_the_demo_does_not_start_where_its_spans_would_be_refused(monkeypatch) -> None:
    monkeypatch.setenv("INGEST_MODE", "key")

    with pytest.raises(BadSettings, match=r"^INGEST_MODE=key: .*--demo none.*INGEST_MODE=open$"):
        LaunchSettings.from_environment(with_demo=True)

    assert LaunchSettings.from_environment(with_demo=False).receiver.ingest_mode == "key"


def test_only_what_a_browser_can_open_is_called_so() -> None:
    # Given the default address, and one that others reach
    local = "\n".join(next_steps(ADDRESSES, with_demo=True))
    reachable = "\n".join(next_steps(replace(ADDRESSES, bind_host="10.0.0.7"), with_demo=True))

    # Then only the first is to be opened, and the other says what it needs
    assert local.startswith("Open http://127.0.0.1:8000 in a browser")
    assert "Open " not in reachable
    assert "http://10.0.0.7:8000 answers only requests with the header Authorization: Bearer" in reachable
    assert "browsers need a proxy" in reachable


def test_the_platform_goes_on_without_visitors_and_supplier_only() -> None:
    services = platform_services(
        LaunchSettings.from_environment(), ADDRESSES, mongodb_url="mongodb://x", data=Path("/data")
    ) + demo_services(FLASK, ADDRESSES, data=Path("/data"))

    assert [service.name for service in services if service.without_it] == ["supplier", "visitors"]


def test_the_argument_wins_over_the_variable(monkeypatch) -> None:
    monkeypatch.setenv("DATA_DIR", "elsewhere")
    settings = LaunchSettings.from_environment()

    assert settings.data_directory(None) == Path(os.getcwd(), "elsewhere")
    assert settings.data_directory("/named") == Path("/named")
