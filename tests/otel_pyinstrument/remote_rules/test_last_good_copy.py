from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from otel_pyinstrument.remote_rules.last_good_copy import copy_path, read_copy, write_copy

BODY = b'{"sampling_rate": 0.5}'


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "rules.json"

    write_copy(path, BODY, '"1"')

    copy = read_copy(path)
    assert copy is not None
    assert (copy.rules.sampling_rate, copy.etag) == (0.5, '"1"')
    assert [each.name for each in path.parent.iterdir()] == ["rules.json"]


def test_only_the_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "rules.json"
    write_copy(path, BODY, "")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_name_does_not_tell_the_key() -> None:
    path = copy_path("http://h/api/v1/projects/opk_secret/config", {"XDG_CACHE_HOME": "/cache"})

    assert path is not None
    assert path.parent == Path("/cache/otel-pyinstrument")
    assert "secret" not in path.name
    assert path != copy_path("http://h/api/v1/projects/other/config", {"XDG_CACHE_HOME": "/cache"})
    assert copy_path("a", {"XDG_CACHE_HOME": "relative"}) is None
    assert str(copy_path("a", {})).startswith(str(Path.home()))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff\xff",
        b"[]",
        b"7",
        b'{"version": 2, "etag": "", "body": "{}"}',
        b'{"version": 1, "etag": 7, "body": "{}"}',
        b'{"version": 1, "etag": "", "body": {}}',
        json.dumps({"version": 1, "etag": "", "body": '{"sampling_rate": 7}'}).encode(),
        json.dumps({"version": 1, "etag": "", "body": "\ud800"}).encode(),
        b"[" * 100_000,
        b" " * 5_000_000,
    ],
)
def test_a_damaged_copy_is_ignored_and_replaced(damaged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_bytes(damaged)
    assert read_copy(path) is None

    write_copy(path, BODY, "")
    assert read_copy(path) is not None


def test_a_place_that_cannot_be_used_is_no_failure(tmp_path: Path) -> None:
    # Given a file where the directory should be, and a directory where the file should be
    (tmp_path / "file").write_text("")
    (tmp_path / "rules.json").mkdir()

    for path in (tmp_path / "file" / "rules.json", tmp_path / "rules.json"):
        write_copy(path, BODY, "")
        assert read_copy(path) is None
    assert sorted(os.listdir(tmp_path)) == ["file", "rules.json"]


def test_what_is_no_text_is_not_written(tmp_path: Path) -> None:
    write_copy(tmp_path / "rules.json", b"\xff", "")

    assert list(tmp_path.iterdir()) == []
