"""The commands of examples/README.md install all that the example and its server need."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
README = (EXAMPLES / "README.md").read_text("utf-8")

BROUGHT_ALONG = {"flask": set(), "django": {"asgiref"}, "fastapi": {"pydantic", "starlette"}}
"""By each framework."""


def imported(package: str) -> set[str]:
    """The libraries that the modules of an example name."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (EXAMPLES / package).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    return {name.split(".")[0] for name in names} - PACKAGES - sys.stdlib_module_names


@pytest.mark.parametrize("framework", BROUGHT_ALONG)
def test_the_line_of_each_example_installs_its_framework_and_the_rest(framework: str) -> None:
    # Given the commands for one example
    section = re.search(rf"^## {framework}_shop$.*?^```sh$(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]
    commands = [shlex.split(line) for line in section.replace("\\\n", "").splitlines() if line]

    # Then one installs what the last one starts and what the modules import
    (install,) = [command for command in commands if command[:2] == ["pip", "install"]]
    installed = {re.match(r"[\w.-]*", name)[0] for name in install[2:]}
    start = commands[-1]
    assert start[0] == "opentelemetry-instrument"
    needed = imported(f"{framework}_shop") - BROUGHT_ALONG[framework] | {start[1]}
    assert framework in needed
    assert needed <= installed
