"""Installs an OTLP client of other people and prints the path of its program.

`install.py javascript|telemetrygen`, run by `make clients` and by the integration tests. What is made is
cached outside the checkout, in a directory named after what it is made from, so a second run only looks.
Progress goes to stderr, the last line of stdout is the path. npm and Go are used as the environment says.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

JAVASCRIPT = Path(__file__).parent / "javascript"
JAVASCRIPT_FILES = ("package.json", "package-lock.json", ".npmrc", "shop.cjs")

TELEMETRYGEN_VERSION = "v0.161.0"  # of the Collector in tests/collector
TELEMETRYGEN = "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"


def cache_directory() -> Path:
    """OTEL_PYINSTRUMENT_CACHE, else otel-pyinstrument in the user's cache directory (XDG)."""
    if chosen := os.environ.get("OTEL_PYINSTRUMENT_CACHE"):
        return Path(chosen).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache).absolute() / "otel-pyinstrument"


def javascript_program() -> Path:
    """Where the program is, or will be, beside the packages of its package-lock.json."""
    inputs = b"\0".join((JAVASCRIPT / name).read_bytes() for name in JAVASCRIPT_FILES)
    return cache_directory() / f"javascript-{hashlib.sha256(inputs).hexdigest()[:16]}" / "shop.cjs"


def install_javascript(directory: Path) -> None:
    for name in JAVASCRIPT_FILES:
        shutil.copy(JAVASCRIPT / name, directory)
    command = [tool("npm"), "ci", "--no-progress", "--loglevel=error", "--prefer-offline"]
    subprocess.run(command, cwd=directory, stdout=sys.stderr, check=True)


def telemetrygen_program() -> Path:
    return cache_directory() / f"telemetrygen-{TELEMETRYGEN_VERSION}" / "telemetrygen"


def install_telemetrygen(directory: Path) -> None:
    command = [tool("go"), "install", f"{TELEMETRYGEN}@{TELEMETRYGEN_VERSION}"]
    environment = os.environ | {"GOBIN": str(directory)}
    subprocess.run(command, env=environment, stdout=sys.stderr, check=True)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(
            f"{name} is not on PATH; install Node.js 20 (npm) or Go 1.26 (go) and run again."
        )
    return found


CLIENTS = {
    "javascript": (javascript_program, install_javascript),
    "telemetrygen": (telemetrygen_program, install_telemetrygen),
}


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def alone(client: str) -> Iterator[None]:
    """Of several that want the client at once, one installs it and the others wait."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(program: Path, client: str, install: Callable[[Path], None]) -> None:
    """Installs into a directory beside the target that is renamed at the end: readers never see half of it.

    Raises OSError without the tools, subprocess.CalledProcessError when a step fails.
    """
    with tempfile.TemporaryDirectory(prefix=f"{client}-", dir=cache_directory()) as scratch:
        directory = Path(scratch) / "new"
        directory.mkdir()
        install(directory)
        directory.rename(program.parent)


def main(client: str) -> int:
    program_of, install = CLIENTS[client]
    program = program_of()
    with alone(client):
        if not program.exists():
            started = time.monotonic()
            say(f"{client}: installing")
            try:
                make(program, client, install)
            except (OSError, subprocess.CalledProcessError) as error:
                say(f"{client}: not installed: {error}")
                return 1
            say(f"{client}: installed in {time.monotonic() - started:.0f} s")
    print(program)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
