"""docs/commands.md names every option, and none that does not exist."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from otel_pyinstrument.command import config, overhead, verify

PAGE = (Path(__file__).parents[3] / "docs" / "commands.md").read_text("utf-8")


@pytest.mark.parametrize("command", [config, verify, overhead])
def test_the_page_and_the_parser_know_the_same_options(command) -> None:
    # Given
    name = command.__name__.rpartition(".")[2]
    commands = argparse.ArgumentParser().add_subparsers()
    command.add_to(commands)
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]

    # When
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
    known = {option for option in commands.choices[name]._option_string_actions if option.startswith("--")}

    # Then
    assert documented == known - {"--help"}
