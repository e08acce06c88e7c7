"""The environments that contenders run in, and what is installed there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead.contenders import Contender

ROOT = Path(__file__).resolve().parents[2]

_LIST = """
import importlib.metadata, json, sys
print(json.dumps({
    "version": sys.version.split()[0],
    "distributions": [d.name.lower().replace("_", "-") for d in importlib.metadata.distributions()],
    "instrumentors": [e.name for e in importlib.metadata.entry_points(group="opentelemetry_instrumentor")],
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """One virtual environment."""

    python: str
    version: str
    distributions: frozenset[str]
    instrumentors: frozenset[str]

    @classmethod
    def at(cls, python: Path) -> Interpreter:
        """Ask the interpreter itself."""
        listed = json.loads(subprocess.check_output([python, "-c", _LIST], text=True))
        return cls(
            str(python),
            listed["version"],
            frozenset(listed["distributions"]),
            frozenset(listed["instrumentors"]),
        )

    @classmethod
    def of_version(cls, version: str) -> Interpreter:
        """What `make bench` has made for Python `version`."""
        python = _python_of(version)
        if not python.exists():
            sys.exit(
                f"Python {version} has no environment for benchmarks yet: make .bench/{version}/.installed"
            )
        return cls.at(python)

    def for_contender(self, contender: Contender) -> Interpreter | None:
        """Where the contender is installed; None: nowhere."""
        place = self
        if contender.apart:
            python = _python_of(f"{'.'.join(self.version.split('.')[:2])}-{contender.name}")
            if not python.exists():
                return None
            place = Interpreter.at(python)
        return place if contender.distribution in {None, *place.distributions} else None


def _python_of(name: str) -> Path:
    return ROOT / ".bench" / name / "bin" / "python"
