"""Run the tests of the application side on other Pythons: `make test-interpreters`.

Takes every CPython 3.10 or newer on PATH and from pyenv, besides the one that runs this, and keeps an
environment for each in `.venv-X.Y`. `--ends` takes the oldest and the newest only and leaves out the tests
that start real servers and those of transport, chaos and the commands: that is the part that runs in CI.
Further arguments go to pytest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements" / "sdk-tests.txt"
OLDEST_MINOR = 10
TESTS = ROOT / "tests" / "otel_pyinstrument"
QUICK = ["-m", "not integration", *(f"--ignore={TESTS / part}" for part in ("transport", "chaos", "command"))]
PYTEST = [
    *("-q", "-p", "no:cacheprovider"),
    # Fixtures of the other packages need Python 3.11.
    *(f"--confcutdir={TESTS}", str(TESTS)),
]
ASK = """
import json, sys
print(json.dumps([sys.implementation.name, sys.version_info.releaselevel, sys.version_info[:3]]))
"""

Version = tuple[int, int, int]


def candidates() -> list[str]:
    """Commands that may be a Python; shims of pyenv among them, which may lead nowhere."""
    commands = [shutil.which(f"python3.{minor}") for minor in range(OLDEST_MINOR, 40)]
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False).stdout.strip()
        commands += [str(path) for path in Path(root).glob("versions/3.*/bin/python")] if root else []
    return [command for command in commands if command]


def version_of(command: str) -> Version | None:
    """None for what does not start, is not CPython, or is no final release from 3.10 on."""
    asked = subprocess.run([command, "-c", ASK], capture_output=True, text=True, check=False)
    if asked.returncode:
        return None
    implementation, level, version = json.loads(asked.stdout)
    wanted = implementation == "cpython" and level == "final" and tuple(version) >= (3, OLDEST_MINOR, 0)
    return tuple(version) if wanted else None


def newest_of_each_minor(found: dict[str, Version | None]) -> dict[tuple[int, int], str]:
    """The command for each minor version besides our own, oldest first."""
    commands: dict[tuple[int, int], str] = {}
    for command, version in sorted(found.items(), key=lambda each: each[1] or (0, 0, 0)):
        if version is not None and version[:2] != sys.version_info[:2]:
            commands[version[:2]] = command
    return commands


def the_ends(commands: dict[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """Of those and ourselves the oldest and the newest; we are tested anyway."""
    known = [*commands, sys.version_info[:2]]
    return {minor: command for minor, command in commands.items() if minor in (min(known), max(known))}


def environment_for(name: str, command: str) -> Path:
    """The Python of `.venv-<name>`, with what the tests need."""
    folder = ROOT / f".venv-{name}"
    python, installed = folder / "bin" / "python", folder / ".installed"
    wanted = command + "\n" + REQUIREMENTS.read_text("utf-8")
    if python.exists() and installed.exists() and installed.read_text("utf-8") == wanted:
        return python
    print(f"making {folder.name} with {command}", flush=True)
    uv = str(Path(sys.executable).parent / "uv")
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", command, str(folder)], check=True)
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
    subprocess.run(
        [*install, "--no-deps", "--editable", str(ROOT)],
        check=True,
        env=os.environ | {"SKIP_WEB_ASSETS": "1"},
    )
    installed.write_text(wanted, "utf-8")
    return python


def main(arguments: list[str]) -> int:
    ends = "--ends" in arguments
    options = [argument for argument in arguments if argument != "--ends"]
    commands = newest_of_each_minor({command: version_of(command) for command in candidates()})
    if ends:
        commands, options = the_ends(commands), [*QUICK, *options]
    if not commands:
        print(f"no other Python from 3.{OLDEST_MINOR} on was found: tested on {sys.version.split()[0]} alone")
    failed: list[str] = []
    for minor, command in commands.items():
        name = ".".join(map(str, minor))
        python = environment_for(name, command)
        print(f"== Python {name}", flush=True)
        if subprocess.run([str(python), "-m", "pytest", *PYTEST, *options], cwd=ROOT, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed on Python {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
