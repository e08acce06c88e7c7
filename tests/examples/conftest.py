"""The examples as importable modules, and the supplier that they ask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


@pytest.fixture
def importable(monkeypatch):
    """`examples/` on the path; its modules are imported anew, with the environment of the test."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    forget = [name for name in sys.modules if name.split(".")[0] in PACKAGES]
    for name in forget:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def supplier_url():
    stub = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "supplier_stub.py"), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield stub.stdout.readline().split(" ")[1].strip()
    finally:
        stub.terminate()
        assert stub.wait(10) == 0
        stub.stdout.close()
