"""The receiver's line about the first profile becomes an address."""

from __future__ import annotations

from all_in_one.first_profile import FirstProfileWatch

RECORD = "0af7651916cd43dd8448eb211c80319c" + "b7ad6b7169203331"
LINE = f"2026-11-21 INFO first profile received: project=65f record={RECORD} endpoint=GET /orders/<int:id>"


def test_a_line_is_told_once_with_its_page(tmp_path) -> None:
    log = tmp_path / "receiver.log"
    log.write_text(f"something else\n{LINE}\n")
    watch = FirstProfileWatch(log)

    found, again = list(watch.new()), list(watch.new())

    assert [(profile.endpoint, profile.path) for profile in found] == [
        ("GET /orders/<int:id>", f"/projects/65f/records/{RECORD}")
    ]
    assert again == []


def test_a_line_that_is_still_being_written_waits(tmp_path) -> None:
    # Given half a line
    log = tmp_path / "receiver.log"
    log.write_text(LINE[:80])
    watch = FirstProfileWatch(log)
    assert list(watch.new()) == []

    # When the rest follows
    with log.open("a") as file:
        file.write(LINE[80:] + "\n")

    # Then it is told
    assert len(list(watch.new())) == 1


def test_a_log_that_is_not_there_yet_tells_nothing(tmp_path) -> None:
    assert list(FirstProfileWatch(tmp_path / "receiver.log").new()) == []


def test_a_broken_line_tells_nothing(tmp_path) -> None:
    log = tmp_path / "receiver.log"
    log.write_bytes(b"first profile received: project=1 record=../../etc endpoint=x\n\xff\xfe\n")

    assert list(FirstProfileWatch(log).new()) == []
