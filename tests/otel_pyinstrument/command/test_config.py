from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from opentelemetry.sdk import environment_variables as sdk_variables

from otel_pyinstrument.command.__main__ import main
from otel_pyinstrument.settings import FIELD_NAMES, shown_value

with_declarative_configuration = pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None,
    reason="opentelemetry-configuration needs a newer SDK",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_PYINSTRUMENT_ENABLED", "OTEL_CONFIG_FILE", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"):
        monkeypatch.delenv(name, raising=False)


def test_every_setting_is_printed_with_value_and_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given settings from a file and the environment
    path = tmp_path / "pyinstrument.json"
    path.write_text('{"rate": 0.5, "project_key": "opk_secret"}', "utf-8")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_CONFIG_FILE", str(path))
    monkeypatch.setenv("OTEL_PYINSTRUMENT_EXCLUDE", "/health, /ping")

    # When the command runs
    code = main(["config"])

    # Then each has its line, and the secret is masked
    printed = capsys.readouterr()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in printed.out.splitlines()}
    assert (code, printed.err) == (0, "")
    assert tuple(rows) == FIELD_NAMES
    assert rows["rate"] == ["0.5", f"file ({path})"]
    assert rows["exclude"] == ["/health,/ping", "environment (OTEL_PYINSTRUMENT_EXCLUDE)"]
    assert rows["project_key"] == ["***", f"file ({path})"]
    assert rows["interval"] == ["10", "default"]
    assert "opk_secret" not in printed.out


def test_what_is_wrong_is_said_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "often")

    code = main(["config"])

    printed = capsys.readouterr()
    assert code == 1
    assert printed.err == (
        "otel-pyinstrument: OTEL_PYINSTRUMENT_RATE=often: expected a number; using the default 0.02\n"
    )
    assert "default, because the value in environment (OTEL_PYINSTRUMENT_RATE) is bad" in printed.out


def test_a_password_in_an_address_that_is_refused_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_PYINSTRUMENT_PLATFORM_URL", "http://ada:hunter2@platform.example")

    code = main(["config"])

    printed = capsys.readouterr()
    assert code == 1
    assert "OTEL_PYINSTRUMENT_PLATFORM_URL=http://platform.example: expected an address" in printed.err
    assert "hunter2" not in printed.out + printed.err


# --- OpenTelemetry's own configuration file --------------------------------------------------------------

SERVICE = """
import json
from opentelemetry.instrumentation.auto_instrumentation import initialize
initialize()
from otel_pyinstrument import PyinstrumentInstrumentor
installed = PyinstrumentInstrumentor()._installed
print(json.dumps(None if installed is None else installed[1]._settings._asdict()))
"""

FILE = """
file_format: "1.0"
tracer_provider:
  processors:
    - simple: {exporter: {console: }}
instrumentation/development:
  python:
    pyinstrument:
"""


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Function (content) -> the file that `OTEL_CONFIG_FILE` names from now on."""

    def write(content: str) -> Path:
        path = tmp_path / "otel.yaml"
        path.write_text(content, "utf-8")
        monkeypatch.setenv("OTEL_CONFIG_FILE", str(path))
        return path

    return write


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, dict[str, list[str]], str]]:
    """Function () -> exit code, value and origin by setting, stderr."""

    def run() -> tuple[int, dict[str, list[str]], str]:
        capsys.readouterr()
        code = main(["config"])
        found = capsys.readouterr()
        return code, {row.split()[0]: row.split(maxsplit=2)[1:] for row in found.out.splitlines()}, found.err

    return run


def settings_of_a_service() -> dict[str, str] | None:
    """As it has them when it is started here; None when profiling is off."""
    run = subprocess.run(
        [sys.executable, "-c", SERVICE], capture_output=True, text=True, timeout=60, check=True
    )
    settings = json.loads(run.stdout.splitlines()[-1])
    if settings is None:
        return None
    return {
        name: shown_value(tuple(value) if isinstance(value, list) else value, name)
        for name, value in settings.items()
    }


@with_declarative_configuration
def test_what_it_says_counts_like_code_as_in_a_service(declare, printed, tmp_path, monkeypatch) -> None:
    # Given options there, in the environment, and in a file of ours that is named there
    ours = tmp_path / "pyinstrument.json"
    ours.write_text('{"max_duration": 5, "interval": 6}', "utf-8")
    path = declare(
        f"{FILE}      rate: ${{RATE}}\n      interval:\n      endpoint_rates: {{/health: 0}}\n"
        f"      config_file: {ours}\n      project_key: opk_secret\n      enabled: true\n"
    )
    monkeypatch.setenv("RATE", "0.5")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "0.25")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_INTERVAL", "7")

    # When the command runs
    code, rows, err = printed()

    # Then it prints what a service has, and from where
    assert (code, err) == (0, "")
    assert {name: value for name, (value, _) in rows.items()} == settings_of_a_service()
    assert rows["rate"] == ["0.5", f"OTEL_CONFIG_FILE ({path})"]
    assert rows["endpoint_rates"] == ["/health=0", f"OTEL_CONFIG_FILE ({path})"]
    assert rows["interval"] == ["7", "environment (OTEL_PYINSTRUMENT_INTERVAL)"]
    assert rows["max_duration"] == ["5", f"file ({ours})"]
    assert rows["project_key"] == ["***", f"OTEL_CONFIG_FILE ({path})"]
    assert rows["enabled"] == ["true", "default"]


@with_declarative_configuration
@pytest.mark.parametrize("options", ["enabled: false", "{rate: 0}"])
def test_what_it_switches_off_is_switched_on_again_and_that_is_said(
    options: str, declare, printed, monkeypatch
) -> None:
    # Given options that the command which starts the service does not know
    path = declare(f"{FILE}      {options}\n")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "0.25")

    code, rows, err = printed()

    # Then what holds in a service is printed, with the reason and the remedy
    assert {name: value for name, (value, _) in rows.items()} == settings_of_a_service()
    assert rows["rate"] == ["0.25", "environment (OTEL_PYINSTRUMENT_RATE)"]
    assert code == 1
    assert err == (
        f"otel-pyinstrument: OTEL_CONFIG_FILE ({path}) switches profiling off, but opentelemetry-instrument "
        "then switches it on without what that file says. Set OTEL_PYINSTRUMENT_ENABLED=false, which holds\n"
    )


@with_declarative_configuration
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_PYINSTRUMENT_ENABLED", "false"),
        ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "flask, pyinstrument"),
    ],
)
def test_what_is_off_for_the_starting_command_too_stays_off(
    variable: str, value: str, declare, printed, monkeypatch
) -> None:
    path = declare(f"{FILE}      enabled: false\n")
    monkeypatch.setenv(variable, value)

    code, rows, err = printed()

    assert settings_of_a_service() is None
    assert (code, err) == (0, "")
    assert rows["enabled"] == ["false", f"OTEL_CONFIG_FILE ({path})"]


@with_declarative_configuration
def test_an_unknown_option_and_a_bad_value_there_are_said_as_at_run_time(declare, printed) -> None:
    path = declare(f"{FILE}      rate: often\n      rat: 1\n      interval: 5\n")

    code, rows, err = printed()

    unknown, bad = err.splitlines()
    assert code == 1
    assert unknown.startswith("otel-pyinstrument: Unknown options rat; known are enabled, rate")
    assert bad == "otel-pyinstrument: rate=often: expected a number; using the default 0.02"
    assert rows["rate"] == ["0.02", f"default, because the value in OTEL_CONFIG_FILE ({path}) is bad"]
    assert rows["interval"] == ["5", f"OTEL_CONFIG_FILE ({path})"]


@with_declarative_configuration
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("file_format: '1.0'\nresource: [secret\n", "it is not valid YAML (line 3)"),
        ("tracer_provider: {processors: []}\n", "'file_format' is a required property (at its top)"),
        (
            f"{FILE}      secret\n",
            "wrong type (at instrumentation/development -> python -> pyinstrument)",
        ),
        ("file_format: '9.0'\n", "Unsupported file_format '9.0'"),
        ("", "Configuration file is empty"),
        ("file_format: '1.0'\ndisabled: true\n", "it says `disabled: true`"),
    ],
)
def test_a_file_that_sets_nothing_up_is_said_without_quoting_it(
    content: str, reason: str, declare, printed
) -> None:
    path = declare(content)

    code, rows, err = printed()

    # Then one line says so
    assert code == 1
    assert err.startswith(f"otel-pyinstrument: OTEL_CONFIG_FILE={path}: ")
    assert reason in err
    assert err.endswith(". opentelemetry-instrument sets nothing up with it, so nothing is profiled\n")
    assert err.count("\n") == 1
    assert "secret" not in err
    assert rows["rate"] == ["0.02", "default"]


@with_declarative_configuration
@pytest.mark.parametrize("content", ["", "file_format: '1.0'\ndisabled: true\n"])
def test_a_service_with_such_a_file_is_not_profiled(content: str, declare) -> None:
    declare(content)

    assert settings_of_a_service() is None


@with_declarative_configuration
def test_a_file_that_is_not_there_is_said_by_us_alone(printed, monkeypatch, caplog) -> None:
    monkeypatch.setenv("OTEL_CONFIG_FILE", "/nowhere/otel.yaml")

    code, _, err = printed()

    assert code == 1
    assert "Configuration file not found: /nowhere/otel.yaml. opentelemetry-instrument sets nothing up" in err
    assert caplog.messages == []


def test_without_the_library_that_reads_it_the_remedy_is_said(declare, printed, monkeypatch) -> None:
    declare(f"{FILE}      rate: 1\n")
    monkeypatch.setattr(sdk_variables, "OTEL_CONFIG_FILE", "OTEL_CONFIG_FILE", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.configuration", None)

    code, rows, err = printed()

    assert code == 1
    assert "Install it: pip install opentelemetry-configuration" in err
    assert rows["rate"] == ["0.02", "default"]


def test_an_sdk_that_does_not_read_it_is_said(declare, printed, monkeypatch) -> None:
    declare(f"{FILE}      rate: 1\n")
    monkeypatch.delattr(sdk_variables, "OTEL_CONFIG_FILE", raising=False)

    code, rows, err = printed()

    assert code == 1
    assert "the installed OpenTelemetry SDK is too old to read it" in err
    assert rows["rate"] == ["0.02", "default"]


# --- the command -----------------------------------------------------------------------------------------


def test_the_installed_command_names_its_subcommands() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).with_name("otel-pyinstrument")), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert all(name in run.stdout for name in ("config", "verify", "overhead"))
    assert run.stderr == ""


def test_no_subcommand_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([])

    assert raised.value.code == 2
    assert "usage: otel-pyinstrument" in capsys.readouterr().err
