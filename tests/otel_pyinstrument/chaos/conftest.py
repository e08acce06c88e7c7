"""A real application in a process of its own, with a library that has changed: it does not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import otel_pyinstrument
from tests.otel_pyinstrument.chaos.cases import FLASK, OFF, SAME, Case

APPLICATION = Path(__file__).parent / "application.py"


class Application:
    """Runs the scenarios, and compares with what they give with the libraries as they are."""

    def __init__(self, new_directory: Callable[[], Path]) -> None:
        self._new_directory = new_directory
        self.undisturbed = cache(lambda scenario: self._run(scenario, {}))

    def runs_without_name(self, case: Case) -> None:
        """In a library whose next version calls something else than we know it."""
        found = self._runs(case.scenario, {"rename": case.name, "in": case.where}, case.effect)
        assert found["renamed"] > 0, f"{case.where} has no {case.name}: the list is out of date"
        if case.missing:
            assert set(self.undisturbed(case.scenario)["callers"]) - set(found["callers"]) == {case.missing}

    def runs_without_module(self, module: str, scenario: str, effect: str) -> None:
        self._runs(scenario, {"without": [module]}, effect)

    def runs_with_another(self, function: str, how: str, effect: str) -> None:
        """With a function that has changed its ways."""
        self._runs(FLASK, {"misbehave": function, "how": how}, effect)

    def _runs(self, scenario: str, change: dict[str, object], effect: str) -> dict[str, object]:
        """The application answers and traces as always."""
        found, usual = self._run(scenario, change), self.undisturbed(scenario)
        assert found["answers"] == usual["answers"]
        assert found["spans"] == usual["spans"]
        assert len(found["warnings"]) == (0 if effect == SAME else 1), found["warnings"]
        profiles = 0 if effect == OFF else usual["profiles"] + usual["logs"]
        assert found["profiles"] + found["logs"] == profiles
        assert found["hooks"] == []
        return found

    def _run(self, scenario: str, change: dict[str, object]) -> dict[str, object]:
        """What came of it; the process must end well, and its stderr must be empty."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment["PYTHONPATH"] = str(Path(otel_pyinstrument.__file__).parents[1])
        case = {"scenario": scenario, "directory": str(self._new_directory()), **change}
        command = [sys.executable, str(APPLICATION), json.dumps(case)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert (ended.returncode, ended.stderr) == (0, "")
        return json.loads(ended.stdout)


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application(lambda: tmp_path_factory.mktemp("chaos") / "spool")
