from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from otel_pyinstrument.command.__main__ import main
from otel_pyinstrument.settings import FIELD_NAMES


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_PYINSTRUMENT_ENABLED", raising=False)


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
