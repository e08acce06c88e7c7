from __future__ import annotations

import logging
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from otel_pyinstrument import environment_variables
from otel_pyinstrument.settings import Settings, read_settings, variable_of

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"
VARIABLES = {name for name in dir(environment_variables) if name.startswith("OTEL_")}


def test_nothing_given_means_the_defaults() -> None:
    assert read_settings({}, {}) == Settings()


def test_the_environment_is_read() -> None:
    settings = read_settings(
        {
            "OTEL_PYINSTRUMENT_ENABLED": "false",
            "OTEL_PYINSTRUMENT_RATE": "0.25",
            "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "7",
            "OTEL_PYINSTRUMENT_INTERVAL": "2.5",
            "OTEL_PYINSTRUMENT_MAX_DURATION": "90",
        },
        {},
    )

    assert settings == Settings(enabled=False, rate=0.25, max_concurrent=7, interval=2.5, max_duration=90)
    assert settings.interval_seconds == 0.0025


def test_the_transport_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/shop")

    settings = read_settings(
        {
            "OTEL_PYINSTRUMENT_EVENT": "LOG",
            "OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES": "1000000",
            "OTEL_PYINSTRUMENT_SPOOL_DIR": "~/spool",
            "OTEL_PYINSTRUMENT_SPOOL_MAX_BYTES": "5000000",
            "OTEL_PYINSTRUMENT_SPOOL_MAX_AGE": "60",
        },
        {},
    )

    assert settings == Settings(
        event="log",
        max_request_bytes=1_000_000,
        spool_dir="/home/shop/spool",
        spool_max_bytes=5_000_000,
        spool_max_age=60,
    )


def test_an_argument_wins_over_the_environment() -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "0.25"}, {"rate": 0.5}).rate == 0.5


def test_an_explicit_zero_survives() -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "0"}, {}).rate == 0
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "1"}, {"rate": 0, "enabled": False}).rate == 0
    assert read_settings({}, {"max_concurrent": 0}).max_concurrent == 0


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_not_set(empty: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": empty}, {}).rate == Settings().rate
    assert caplog.records == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RATE", "often"),
        ("RATE", "1.5"),
        ("RATE", "-0.1"),
        ("RATE", "nan"),
        ("RATE", "inf"),
        ("INTERVAL", "0"),
        ("INTERVAL", "10 ms"),
        ("MAX_DURATION", "-1"),
        ("MAX_CONCURRENT", "1.5"),
        ("MAX_CONCURRENT", "-1"),
        ("ENABLED", "perhaps"),
        ("EVENT", "metric"),
        ("MAX_REQUEST_BYTES", "1000"),
        ("SPOOL_MAX_BYTES", "1"),
        ("SPOOL_MAX_AGE", "forever"),
        ("RATE", "9" * 1000),
    ],
)
def test_a_bad_value_warns_once_with_name_value_and_default(
    variable: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    # When a variable holds nonsense
    settings = read_settings({f"OTEL_PYINSTRUMENT_{variable}": value}, {})

    # Then the default is used and one line says so
    assert settings == Settings()
    (record,) = caplog.records
    default = asdict(Settings())[variable.lower()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"OTEL_PYINSTRUMENT_{variable}={value[:80]}: expected ")
    assert record.getMessage().endswith(f"using the default {default}")


def test_a_bad_argument_does_not_fall_back_to_the_environment(caplog: pytest.LogCaptureFixture) -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "1"}, {"rate": object()}).rate == Settings().rate
    assert "rate=" in caplog.text


def test_an_unknown_option_is_named(caplog: pytest.LogCaptureFixture) -> None:
    read_settings({}, {"rat": 1})

    (record,) = caplog.records
    assert "rat;" in record.getMessage()


def test_every_setting_has_a_variable_and_every_variable_a_setting() -> None:
    assert {variable_of(name) for name in asdict(Settings())} == VARIABLES
    assert all(getattr(environment_variables, name) == name for name in VARIABLES)


def test_the_reference_names_every_variable_with_its_default() -> None:
    # Given the table of the documentation
    rows = dict(
        re.findall(r"^\| `(OTEL_PYINSTRUMENT_\w+)` \| `?([^`|]+?)`? \|", REFERENCE.read_text("utf-8"), re.M)
    )

    # Then it says what the code does
    assert rows == {variable_of(name): shown(value) for name, value in asdict(Settings()).items()}


def shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return (",".join(default) if isinstance(default, tuple) else str(default)) or "none"
