"""The Pythons that the application side is tested on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def interpreters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interpreters", Path(__file__).with_name("interpreters.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_newest_of_each_other_minor_version_is_taken(
    interpreters: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 7, "final", 0))
    found = {
        "a": (3, 12, 1),
        "b": (3, 10, 13),
        "c": (3, 10, 2),
        "shim": None,
        "d": (3, 13, 0),
        "us": (3, 11, 9),
    }

    commands = interpreters.newest_of_each_minor(found)

    assert commands == {(3, 10): "b", (3, 12): "a", (3, 13): "d"}
    assert interpreters.the_ends(commands) == {(3, 10): "b", (3, 13): "d"}


def test_we_may_be_an_end_ourselves(interpreters: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 1, "final", 0))

    assert interpreters.the_ends({(3, 10): "b", (3, 12): "a"}) == {(3, 10): "b"}
    assert interpreters.the_ends({}) == {}


def test_what_is_no_python_of_ours_is_passed_over(interpreters: ModuleType, tmp_path: Path) -> None:
    shim = tmp_path / "python3.10"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)

    assert interpreters.version_of(str(shim)) is None
    assert interpreters.version_of(sys.executable) == sys.version_info[:3]


def test_nothing_is_left_out_but_for_the_quick_run_what_its_text_says(interpreters: ModuleType) -> None:
    def ignored(options: list[str]) -> set[str]:
        ignores = [option for option in options if option.startswith("--ignore")]
        return {str(Path(option.partition("=")[2]).relative_to(interpreters.TESTS)) for option in ignores}

    assert ignored(interpreters.PYTEST) == set()
    assert ignored(interpreters.QUICK) == {"transport", "chaos", "command"}
    assert all(name in interpreters.__doc__ for name in ("transport", "chaos", "commands"))
