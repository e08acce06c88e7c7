"""Promises of the repository itself: what the wheel holds, and what may never be committed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_the_wheel_holds_only_the_sdk(tmp_path: Path) -> None:
    # When the wheel is built, as a release would
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )

    # Then nobody's site-packages gains a package called `web`
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"otel_pyinstrument"}


def test_no_pin_names_a_place_to_download_from() -> None:
    for path in tracked_files():
        if path.parent.name == "requirements" or path.name in {"package-lock.json", ".npmrc"}:
            text = path.read_text("utf-8")
            assert not re.search(r"https?://|\"resolved\"|--(extra-)?index-url|--find-links", text), path


@pytest.mark.parametrize(
    "path", [p for p in tracked_files() if p.suffix == ".md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_relative_link_of_a_document_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text("utf-8"))

    missing = [target for target in targets if not (path.parent / target).exists()]

    assert missing == []


def test_no_committed_file_is_large() -> None:
    large = [p.relative_to(ROOT).as_posix() for p in tracked_files() if p.stat().st_size > 300_000]

    assert large == []
