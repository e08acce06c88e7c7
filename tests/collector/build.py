"""Builds the standard OpenTelemetry Collector of builder.yaml and prints the path of its binary.

Run by `make collector` and by the integration tests, with any Python >= 3.11 and Go on PATH.
The binary is cached outside the checkout, in a directory named after the manifest and this
script, so a second run only looks. Progress goes to stderr; the last line of stdout is the path.
Go finds its modules as the environment says (GOPROXY, GOFLAGS, GOTOOLCHAIN): nothing is set here.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.161.0"
MANIFEST = Path(__file__).with_name("builder.yaml")


def cache_directory() -> Path:
    """OTEL_PYINSTRUMENT_CACHE, else otel-pyinstrument in the user's cache directory (XDG)."""
    if chosen := os.environ.get("OTEL_PYINSTRUMENT_CACHE"):
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "otel-pyinstrument"


def binary_path() -> Path:
    """Where the binary of this manifest and this script is, or will be."""
    inputs = hashlib.sha256(MANIFEST.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    return cache_directory().absolute() / f"collector-{inputs[:16]}" / "otelcol"


def say(message: str) -> None:
    print(f"collector: {message}", file=sys.stderr, flush=True)


@contextmanager
def alone() -> Iterator[None]:
    """Of several that want the binary at once, one builds it and the others wait."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "collector.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(binary: Path) -> None:
    """Builds into a temporary directory beside the target, then renames: readers never see half a file.

    Raises FileNotFoundError without go, subprocess.CalledProcessError when a step fails.
    """
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError(
            "go is not on PATH; the Collector of the tests is built from Go modules. "
            "Install Go 1.26 or newer and run again."
        )
    with tempfile.TemporaryDirectory(prefix="collector-building-", dir=binary.parent.parent) as scratch:
        say(f"building from Go modules (some minutes the first time), with {go}")
        command = [go, "run", BUILDER, f"--config={MANIFEST}"]
        subprocess.run(command, cwd=scratch, stdout=sys.stderr, check=True)
        built = Path(scratch) / "distribution" / "otelcol"
        say("checking that the binary runs")
        subprocess.run([built, "components"], stdout=subprocess.DEVNULL, check=True)
        binary.parent.mkdir(exist_ok=True)
        built.replace(binary)


def main() -> int:
    binary = binary_path()
    with alone():
        if not binary.exists():
            started = time.monotonic()
            try:
                build(binary)
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                say(f"not built: {error}")
                return 1
            say(f"built in {time.monotonic() - started:.0f} s")
    print(binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
