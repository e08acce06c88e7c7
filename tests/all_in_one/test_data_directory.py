"""One run at a time per data directory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from all_in_one.data_directory import DataDirectoryNotAvailable, claimed


def test_a_second_claim_names_the_holder_and_the_way_out(tmp_path) -> None:
    with (
        claimed(tmp_path),
        pytest.raises(
            DataDirectoryNotAvailable, match=rf"process {os.getpid()}\).*--data DIR or DATA_DIR=DIR"
        ),
        claimed(tmp_path),
    ):
        pass


def test_the_directory_is_free_again_afterwards(tmp_path) -> None:
    with claimed(tmp_path / "new" / "data"):
        pass
    with claimed(tmp_path / "new" / "data"):
        assert (tmp_path / "new" / "data" / "logs").is_dir()


def test_a_killed_holder_leaves_the_directory_free(tmp_path) -> None:
    # Given a process that holds the directory
    code = f"""
from pathlib import Path
from all_in_one.data_directory import claimed
with claimed(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirectoryNotAvailable, match=f"process {holder.pid}"), claimed(tmp_path):
            pass

        # When it is killed
        holder.kill()
        holder.wait()

    # Then the next one may have it
    with claimed(tmp_path):
        pass


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(DataDirectoryNotAvailable, match="Not a directory"), claimed(tmp_path / "data"):
        pass
