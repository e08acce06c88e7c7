"""compose.yaml as Compose reads it, and Dockerfile as Docker does, as far as our files use either."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import otelcol  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]

SECRETS = {
    "MONGODB_ROOT_PASSWORD": "root-password",
    "MONGODB_PASSWORD": "services-password",
    "ADMIN_TOKEN": "a-token-that-nobody-guesses",
    "INGEST_MODE": "open",
}

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<form>:[-?])(?P<text>[^}]*))?\})")


class MissingVariable(Exception):
    """What `docker compose` says, and ends."""


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """A value with its variables, as Compose puts them in."""

    def value(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        if given := variables.get(found["name"]):
            return given
        if found["form"] == ":?":
            raise MissingVariable(f"{found['name']}: {found['text']}")
        return found["text"] or ""

    return _VARIABLE.sub(value, text)


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return interpolated(node, variables) if isinstance(node, str) else node

    return walk(yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8")))


@pytest.fixture(scope="session")
def compose_with() -> Callable[..., dict[str, Any]]:
    """Function (variables) -> compose.yaml with these variables set."""
    return read_compose


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    """Everything that compose.yaml asks for."""
    return dict(SECRETS)


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """compose.yaml with nothing set but what it asks for."""
    return read_compose(SECRETS)


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile. `exec_form` is its JSON list, None when a shell would run it."""

    name: str
    text: str

    @property
    def exec_form(self) -> list[str] | None:
        start = self.text.find("[")
        return json.loads(self.text[start:]) if start >= 0 else None

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


@pytest.fixture(scope="session")
def stages() -> list[list[Instruction]]:
    """The instructions of the Dockerfile, stage by stage."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    instructions = [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]
    starts = [number for number, each in enumerate(instructions) if each.name == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
