"""Every service's command says what it is, and takes no argument for a setting."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_SETTINGS = [
    "collector_receiver",
    "all_in_one",
    "all_in_one.server",
    "profile_store",
    "profile_store.mongodb.set_up",
    "profile_store.mongodb.sharding",
]


def run(module: str, argument: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, argument],
        # Whoever would start in spite of it finds no database and ends.
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", WITH_SETTINGS)
def test_help_names_settings_and_where_they_are_described(module) -> None:
    # When somebody asks for help, with settings that do not work
    asked = run(module, "--help", LOG_LEVEL="loud", MONGODB_DATABASE="admin")

    # Then it is given, with variables of the environment
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"usage: python -m {module} ")
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", asked.stdout))
    assert named
    # And the page that it points to describes each of them
    manual = "".join((ROOT / page).read_text("utf-8") for page in re.findall(r"docs/\S+\.md", asked.stdout))
    assert [name for name in sorted(named) if name not in manual] == []


@pytest.mark.parametrize("module", WITH_SETTINGS)
def test_an_unknown_argument_is_refused(module) -> None:
    # When somebody writes a setting as an argument
    refused = run(module, "--port=9999", LOG_LEVEL="loud", MONGODB_DATABASE="admin")

    # Then nothing begins, and the line is about the argument
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"usage: python -m {module} ")
