"""What the terminal gets to see."""

from __future__ import annotations

import io
import sys

import pytest

from all_in_one.__main__ import main
from all_in_one.console import CLEAR_LINE, Console


def test_passing_states_are_for_terminals_only(console, output) -> None:
    console.passing_state("web", "starting ...")
    console.state("web", "http://127.0.0.1:8000")

    assert output.getvalue() == "  web        http://127.0.0.1:8000\n"


def test_a_terminal_sees_the_next_state_in_the_same_place(terminal) -> None:
    console = Console(terminal)

    console.passing_state("web", "starting ...")
    console.state("web", "ready")

    assert terminal.getvalue() == f"  web        starting ...{CLEAR_LINE}  web        ready\n"


def test_text_of_others_cannot_drive_the_terminal(console, output) -> None:
    console.line("first profile: GET /\x1b]0;owned\x07\nnext")

    assert output.getvalue() == "first profile: GET /?]0;owned?\nnext\n"


def test_a_terminal_that_is_gone_does_not_stop_the_stopping() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    Console(Gone()).line("stopping")


@pytest.mark.usefixtures("interrupts")
def test_a_directory_that_the_terminal_lacks_is_escaped(monkeypatch, tmp_path) -> None:
    # Given a terminal that knows ASCII only, and free ports
    monkeypatch.setattr("all_in_one.__main__.run", lambda *_arguments, **_options: 0)
    for name in ("HTTP_PORT", "OTLP_GRPC_PORT", "OTLP_HTTP_PORT"):
        monkeypatch.setenv(name, "0")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", write_through=True))

    # When the platform begins in a directory with another name
    monkeypatch.setattr(sys, "argv", ["all_in_one", "--data", str(tmp_path / "dätä")])
    code = main()

    # Then its line names the directory
    assert code == 0
    assert b"/d\\xe4t\\xe4/logs\n" in shown.getvalue()
