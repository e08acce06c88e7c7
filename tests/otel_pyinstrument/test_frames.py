from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pyinstrument.low_level.stat_profile import get_frame_info

from otel_pyinstrument.call_tree import Frame
from otel_pyinstrument.frames import current_describer, identifier_of, identifier_of_code


def described(name: str, file: str, line: int = 7) -> Frame:
    return current_describer()(f"{name}\0{file}\0{line}")


# --- identifiers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "identifier"),
    [
        ("view\0/app/views.py\x0012", "view\0/app/views.py\x0012"),
        ("view\0/app/views.py\x0012\x01l15", "view\0/app/views.py\x0012"),
        ("save\0/app/m.py\x003\x01cOrder\x01l5", "save\0/app/m.py\x003\x01cOrder"),
        ("save\0/app/m.py\x003\x01l5\x01cOrder\x01h1", "save\0/app/m.py\x003\x01cOrder"),
        ("sleep\0<built-in>\x000", "sleep\0<built-in>\x000"),
        ("", ""),
    ],
)
def test_the_identifier_leaves_out_what_changes_from_sample_to_sample(raw: str, identifier: str) -> None:
    assert identifier_of(raw) == identifier


def test_a_real_frame_and_its_code_agree() -> None:
    frame = sys._getframe()

    assert identifier_of(get_frame_info(frame)) == identifier_of_code(frame.f_code)


# --- frames ------------------------------------------------------------------------------------------


def test_a_file_is_relative_to_the_longest_search_path_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "src"), *sys.path])

    assert described("load", str(tmp_path / "src" / "shop" / "orders.py")) == Frame(
        "load", "shop/orders.py", 7, True
    )
    assert described("load", str(tmp_path / "tools" / "run.py")).file == "tools/run.py"


def test_a_folder_that_only_begins_like_an_entry_is_not_below_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "app")])

    assert described("f", str(tmp_path / "app2" / "m.py")).file == str(tmp_path / "app2" / "m.py")


def test_an_empty_search_path_entry_is_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [""])

    assert described("f", str(tmp_path / "shop" / "m.py")).file == "shop/m.py"
    assert described("f", "shop/m.py") == Frame("f", "shop/m.py", 7, True)


@pytest.mark.parametrize(
    "file",
    [
        os.__file__,
        pytest.__file__,
        "/opt/app/.venv/lib/python3.11/site-packages/flask/app.py",
        "/usr/lib/python3/dist-packages/yaml/__init__.py",
        str(Path(sys.prefix) / "bin" / "gunicorn"),
        str(Path(__file__).parents[2] / "otel_pyinstrument" / "segment.py"),
    ],
)
def test_libraries_are_not_own_code(file: str) -> None:
    assert not described("f", file).own_code


@pytest.mark.parametrize(
    "file", [__file__, "/app/orders.py", "/usr/src/app/orders.py", "/usr/local/app/orders.py"]
)
def test_applications_are_own_code(file: str) -> None:
    assert described("f", file).own_code


@pytest.mark.parametrize("folder", ["stdlib", "platstdlib", "purelib", "platlib"])
def test_what_python_calls_its_own_is_no_own_code(folder: str) -> None:
    assert not described("f", str(Path(sysconfig.get_path(folder)) / "module.py")).own_code


def test_installed_packages_are_named_without_the_way_to_them() -> None:
    file = str(Path(sysconfig.get_path("purelib")) / "flask" / "app.py")

    assert described("wsgi_app", file) == Frame("wsgi_app", "flask/app.py", 7, False)


@pytest.mark.parametrize("file", ["<string>", "<frozen importlib._bootstrap>", "<stdin>"])
def test_code_without_a_file_keeps_its_label(file: str) -> None:
    assert described("f", file) == Frame("f", file, 7, False)


def test_a_class_is_put_before_the_name() -> None:
    assert current_describer()("save\0/app/m.py\x003\x01cOrder").function == "Order.save"


@pytest.mark.parametrize(
    ("identifier", "function"),
    [
        ("sleep\0<built-in>\x000", "sleep"),
        ("only a name", "only a name"),
        ("", ""),
        ("name\0file", "name"),
        ("f\0\0x", "f"),
    ],
)
def test_what_has_no_file_is_a_frame_without_one(identifier: str, function: str) -> None:
    frame = current_describer()(identifier)

    assert (frame.function, frame.line, frame.own_code) == (function, 0, False)


@pytest.mark.parametrize("file", ["/app/\udcff.py", "/app/a\0b.py", "/app/" + "x" * 10_000, "/app/заказ.py"])
def test_strange_file_names_are_described(file: str) -> None:
    assert described("f", file).line == 7


def test_a_removed_working_directory_is_no_problem(tmp_path: Path) -> None:
    # Given a process whose working directory is gone
    gone = tmp_path / "gone"
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from otel_pyinstrument.frames import current_describer
os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})
print(current_describer()("f\\0/app/m.py\\x001"))
"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert "own_code=True" in run.stdout, run.stderr
