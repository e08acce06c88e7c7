"""Settings come from the environment; a bad one is one line that names it."""

from pathlib import Path

import pytest

from collector_receiver.settings import InvalidSettings, ReceiverSettings, load
from profile_store import StoreSettings

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "receiver.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ReceiverSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_defaults_listen_on_loopback_only():
    settings = load(ReceiverSettings)

    assert (settings.bind_host, settings.otlp_grpc_port, settings.ingest_mode) == ("127.0.0.1", 4317, "open")


def test_an_explicit_zero_and_an_empty_value_are_told_apart(monkeypatch):
    monkeypatch.setenv("OTLP_GRPC_PORT", "0")
    monkeypatch.setenv("INGEST_MODE", "")

    settings = load(ReceiverSettings)

    assert (settings.otlp_grpc_port, settings.ingest_mode) == (0, "open")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTLP_GRPC_PORT", "70000"),
        ("OTLP_GRPC_PORT", "grpc"),
        ("INGEST_MODE", "closed"),
        ("LOG_LEVEL", "chatty"),
        ("MAX_REQUEST_SIZE", "1"),
        ("RECEIVER_PROCESSES", "0"),
        ("RECEIVER_PROCESSES", "many"),
        ("STATUS_PORT", "-1"),
        ("PROJECT_SPANS_PER_SECOND", "-1"),
        ("PROJECT_BYTES_PER_SECOND", "1MB"),
        ("CORS_ORIGINS", "shop.example"),
        ("CORS_ORIGINS", "https://shop.example/"),
        ("CORS_ORIGINS", "https://shop.example,javascript:alert(1)"),
    ],
)
def test_a_bad_value_is_one_line_with_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings) as problem:
        load(ReceiverSettings)

    assert str(problem.value).startswith(f"{name}={value}: ")
    assert "\n" not in str(problem.value)


def test_a_password_in_the_database_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("MONGODB_URL", "http://user:hunter2@host")

    with pytest.raises(InvalidSettings) as problem:
        load(StoreSettings)

    assert str(problem.value).startswith("MONGODB_URL=***: ")
    assert "hunter2" not in str(problem.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "receiver.example"])
def test_open_mode_beyond_loopback_must_be_asked_for(monkeypatch, host):
    monkeypatch.setenv("BIND_HOST", host)

    with pytest.raises(InvalidSettings, match="INGEST_MODE=key"):
        load(ReceiverSettings)
    for mode in ("open", "key"):
        monkeypatch.setenv("INGEST_MODE", mode)
        assert load(ReceiverSettings).ingest_mode == mode


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_confirmation(monkeypatch, host):
    monkeypatch.setenv("BIND_HOST", host)

    assert load(ReceiverSettings).bind_host == host


def test_every_setting_is_documented():
    text = DOCUMENTATION.read_text()

    missing = [name.upper() for name in ReceiverSettings.model_fields if f"`{name.upper()}`" not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("set_ones", "missing"),
    [
        (["OTLP_TLS_CERTIFICATE"], "OTLP_TLS_KEY"),
        (["OTLP_TLS_KEY"], "OTLP_TLS_CERTIFICATE"),
        (["OTLP_TLS_CLIENT_CA"], "OTLP_TLS_CERTIFICATE"),
    ],
)
def test_half_of_tls_is_refused_and_the_other_half_named(monkeypatch, set_ones, missing):
    for name in set_ones:
        monkeypatch.setenv(name, "/etc/tls/file.pem")

    with pytest.raises(InvalidSettings, match=missing):
        load(ReceiverSettings)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTLP_GRPC_PORT": "4318"}, "OTLP_HTTP_PORT=4318: OTLP_GRPC_PORT is the same port"),
        ({"STATUS_PORT": "4317"}, "STATUS_PORT=4317: OTLP_GRPC_PORT is the same port"),
        ({"STATUS_PORT": "4318"}, "STATUS_PORT=4318: OTLP_HTTP_PORT is the same port"),
        (
            {"STATUS_PORT": "4318", "BIND_HOST": "0.0.0.0", "INGEST_MODE": "key"},
            "STATUS_PORT=4318: OTLP_HTTP_PORT is the same port",
        ),
    ],
    ids=str,
)
def test_a_port_that_is_wanted_twice_is_refused_with_both_names(monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings) as problem:
        load(ReceiverSettings)

    assert str(problem.value) == f"{told}; give one of the two another (0: any free port)"


@pytest.mark.parametrize(
    "variables",
    [
        {"OTLP_GRPC_PORT": "0", "OTLP_HTTP_PORT": "0", "STATUS_PORT": "0"},
        {"STATUS_PORT": "4318", "STATUS_HOST": "127.0.0.2"},
    ],
    ids=str,
)
def test_free_ports_and_ports_of_other_addresses_are_not_the_same(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert load(ReceiverSettings).status_port == int(variables["STATUS_PORT"])


def test_origins_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("CORS_ORIGINS", " https://Shop.example , http://localhost:3000,")

    assert load(ReceiverSettings).cors_origins == ("https://shop.example", "http://localhost:3000")
