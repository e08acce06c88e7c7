"""Outages of real backends, with requests on a real disk."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

from otel_pyinstrument.transport import install, spool, spool_directory
from otel_pyinstrument.transport.losses import Losses
from otel_pyinstrument.transport.spool_directory import SpoolDirectory
from tests.free_ports import find_free_ports

KIB = 1024
MIB = 1024 * KIB
PATIENT_SECONDS = 10.0
SECRET = "a-very-secret-project-key"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(spool, "_FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(spool, "_LONGEST_PAUSE_SECONDS", 0.1)


class App:
    """An application with one exporter and the spool on.

    Its exporter gives a backend that is away up at once, and leaves one that is there all the time it wants.
    """

    def __init__(self, backend, installed, directory: Path, **settings) -> None:
        self.provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
        headers = {"x-project-key": SECRET}
        self.exporter = backend.exporter(timeout=PATIENT_SECONDS, headers=headers)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.transport = installed(self.provider, spool_dir=str(directory), **settings)
        self.backend, self.original = backend, self.exporter.export.original
        self.exporter.export.original = self._export

    def _export(self, batch):
        answers = self.backend.server is not None and self.backend.abort_with is None
        # Where an exporter keeps its timeout depends on its protocol and version.
        inner = getattr(self.exporter, "_client", None)
        keeper = inner if inner is not None and hasattr(inner, "_timeout") else self.exporter
        keeper._timeout = PATIENT_SECONDS if answers else 0.3
        try:
            return self.original(batch)
        finally:
            keeper._timeout = PATIENT_SECONDS

    @property
    def spool(self) -> spool.Spool:
        return self.exporter.export.spool


@pytest.fixture
def app(backend, installed, tmp_path):
    def make(**settings) -> App:
        return App(backend, installed, tmp_path / "spool", **settings)

    return make


def files(directory: Path, suffix: str = ".otlp") -> list[Path]:
    return sorted(directory.rglob(f"*{suffix}"))


def numbered(spans, *numbers):
    return [span for number in numbers for span in spans(payload_bytes=KIB, number=number)]


def test_what_could_not_be_delivered_arrives_later_in_order_and_unchanged(
    backend, app, spans, tmp_path, wait_until
) -> None:
    # Given a backend that goes away
    shop = app()
    backend.stop()
    batches = [numbered(spans, 10 * n, 10 * n + 1) for n in range(5)]

    # When five batches are exported meanwhile
    results = [shop.exporter.export(batch) for batch in batches]
    assert len(files(tmp_path)) == 5
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then all arrived, bit by bit, in order; and what comes now goes straight there
    assert results == [SpanExportResult.SUCCESS] * 5
    bodies = [encode_spans(batch).SerializeToString() for batch in batches]
    assert backend.bodies == [bodies[0], b"".join(bodies[1:])]
    wait_until(lambda: not shop.spool.waits())
    shop.exporter.export(numbered(spans, 99))
    assert backend.numbers == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 99]
    assert {metadata["x-project-key"] for metadata in backend.metadata} == {SECRET}
    assert "otel-pyinstrument-spool" not in {thread.name for thread in threading.enumerate()}


def test_with_gzip_what_was_kept_is_sent_compressed_and_grouped_by_its_size_before(
    backend, wire, app, spans, tmp_path, wait_until, monkeypatch
) -> None:
    # Given compression as users switch it on, and a backend that goes away
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    shop = app(max_request_bytes=64 * KIB)
    backend.stop()

    # When batches are kept that are a hundredth of their size when compressed
    batches = [spans(text="x" * 24 * KIB, number=number) for number in range(7)]
    for batch in batches:
        assert shop.exporter.export(batch) is SpanExportResult.SUCCESS
    before = wire.sent_bytes
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then it unpacks what was exported, two in each request after the first, and little crossed the wire
    bodies = [encode_spans(batch).SerializeToString() for batch in batches]
    assert backend.bodies == [bodies[0], *(a + b for a, b in zip(bodies[1::2], bodies[2::2], strict=True))]
    assert wire.sent_bytes - before < 16 * KIB


def test_during_an_outage_an_export_takes_no_longer_than_writing_a_file(
    backend, app, spans, wait_until
) -> None:
    shop = app()
    backend.stop()
    shop.exporter.export(numbered(spans, 0))
    tried = []
    shop.exporter.export.original = lambda batch: tried.append(batch)

    for number in range(20):
        shop.exporter.export(numbered(spans, number))

    assert tried == []


def test_a_restarted_application_sends_what_the_last_one_left_first(
    backend, app, spans, tmp_path, wait_until
) -> None:
    # Given an application that ended during the outage
    first = app()
    backend.stop()
    for number in range(3):
        first.exporter.export(numbered(spans, number))
    first.transport.uninstall()
    first.exporter.shutdown()
    assert len(files(tmp_path)) == 3

    # When the next one exports, and the backend is back
    second = app()
    backend.start()
    second.exporter.export(numbered(spans, 3))
    wait_until(lambda: not files(tmp_path))

    # Then
    assert backend.numbers == [0, 1, 2, 3]


def test_a_short_lived_process_delivers_what_waited_when_it_shuts_down(backend, app, spans, tmp_path) -> None:
    first = app()
    backend.stop()
    first.exporter.export(numbered(spans, 0))
    first.exporter.shutdown()
    backend.start()

    # When a process exports only at its end
    second = app()
    second.exporter.export(numbered(spans, 1))
    second.exporter.shutdown()

    # Then nothing waits for yet another one
    assert backend.numbers == [0, 1]
    assert files(tmp_path) == []


def test_shutdown_does_not_wait_for_a_backend_that_is_away(
    backend, app, spans, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(install, "DRAIN_SECONDS", 30)
    shop = app()
    backend.stop()
    shop.exporter.export(numbered(spans, 0))

    begun = time.monotonic()
    shop.provider.shutdown()

    assert time.monotonic() - begun < install.DRAIN_SECONDS
    assert len(files(tmp_path)) == 1


def test_the_oldest_are_dropped_and_counted_when_the_spool_is_full(
    backend, app, spans, tmp_path, wait_until, caplog
) -> None:
    # Given room for one MiB
    shop = app(spool_max_bytes=MIB)
    backend.stop()

    # When four times as much comes
    for number in range(16):
        shop.exporter.export(spans(payload_bytes=256 * KIB, number=number))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= MIB
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then the newest are delivered, and the rest is counted
    assert backend.numbers == [13, 14, 15]
    assert shop.transport._losses.requests == {"the spool is full": 13}
    (warning,) = [message for message in caplog.messages if "spool" in message]
    assert warning.startswith("Requests dropped from the spool since the start (the spool is full): 1, ")


def test_a_request_that_goes_while_the_spool_is_read_hides_no_other(tmp_path, monkeypatch) -> None:
    # Given five requests, of which the oldest is delivered by another process in the middle of reading
    directory = SpoolDirectory(tmp_path, "d", max_bytes=MIB, max_age_seconds=60, losses=Losses())
    for number in range(5):
        assert directory.put(b"%d" % number)
    waiting = directory.waiting()
    scandir = os.scandir

    @contextmanager
    def one_goes(folder):
        with scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        waiting[0].unlink()
        yield found

    monkeypatch.setattr(os, "scandir", one_goes)

    # Then the others are there, in their order
    assert directory.waiting() == waiting[1:]


def test_what_is_too_old_is_dropped_and_counted(backend, app, spans, tmp_path, wait_until) -> None:
    shop = app(spool_max_age=60)
    backend.stop()
    shop.exporter.export(numbered(spans, 0))
    shop.exporter.export(numbered(spans, 1))
    old = time.time() - 61
    os.utime(files(tmp_path)[0], (old, old))

    backend.start()
    wait_until(lambda: not files(tmp_path))

    assert backend.numbers == [1]
    assert shop.transport._losses.requests == {"too old": 1}


@pytest.mark.parametrize("damage", [b"", b"otlp-spool-1\n", b"x" * 500, None])
def test_a_damaged_file_is_set_aside_and_stops_nothing(
    damage, backend, app, spans, tmp_path, wait_until, caplog
) -> None:
    # Given three files, one of them damaged as by a power cut or a bad disk
    shop = app()
    backend.stop()
    for number in range(3):
        shop.exporter.export(numbered(spans, number))
    victim = files(tmp_path)[1]
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] if damage is None else damage)

    # When
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then
    assert backend.numbers == [0, 2]
    assert files(tmp_path, ".damaged") == [victim.with_suffix(".damaged")]
    assert any("is damaged and set aside" in message for message in caplog.messages)


def reading_fails(monkeypatch: pytest.MonkeyPatch, victim: Path, number: int) -> None:
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == victim:
            raise OSError(number, os.strerror(number))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_is_set_aside_and_stops_nothing(
    number, backend, app, spans, tmp_path, wait_until, monkeypatch, caplog
) -> None:
    # Given three files, the oldest of them of another user, or on a bad sector
    shop = app()
    backend.stop()
    for each in range(3):
        shop.exporter.export(numbered(spans, each))
    victim = files(tmp_path)[0]
    reading_fails(monkeypatch, victim, number)

    # When
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then
    assert backend.numbers == [1, 2]
    assert files(tmp_path, ".damaged") == [victim.with_suffix(".damaged")]
    assert any(f"({os.strerror(number)}) and set aside" in message for message in caplog.messages)


def test_a_process_that_can_open_no_more_files_sets_none_aside(tmp_path, monkeypatch) -> None:
    directory = SpoolDirectory(tmp_path, "d", max_bytes=MIB, max_age_seconds=60, losses=Losses())
    directory.put(b"a request")
    (path,) = directory.waiting()

    with monkeypatch.context() as patched:
        reading_fails(patched, path, errno.EMFILE)
        with pytest.raises(OSError, match="Too many open files"):
            directory.read(path)

    assert directory.read(path) == b"a request"


def test_a_file_that_was_never_finished_is_not_sent(backend, app, spans, tmp_path, wait_until) -> None:
    shop = app()
    backend.stop()
    shop.exporter.export(numbered(spans, 0))
    (whole,) = files(tmp_path)
    whole.with_name(f"{0:020d}-00000000.tmp").write_bytes(whole.read_bytes()[:100])

    backend.start()
    wait_until(lambda: not files(tmp_path))

    assert backend.numbers == [0]


def test_a_request_waits_only_when_all_of_it_has_reached_the_disk(folder, monkeypatch) -> None:
    # Given what others would find, and a power cut leave, when the system is told to write
    directory = folder()
    synced = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        about = os.fstat(descriptor)
        synced.append((about.st_ino, about.st_size, directory.waiting()))

    monkeypatch.setattr(os, "fsync", noted)

    # When a request is kept
    path = directory.put(b"x" * KIB)

    # Then its file was whole by then, and took its name later
    kept = path.stat()
    assert synced == [(kept.st_ino, kept.st_size, [])]
    assert directory.waiting() == [path]
    assert directory.read(path) == b"x" * KIB


def test_a_request_that_does_not_reach_the_disk_leaves_nothing_behind(folder, tmp_path, monkeypatch) -> None:
    # Given a disk that is full
    directory = folder()
    monkeypatch.setattr(os, "fsync", disk_is_full)

    # When
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        directory.put(b"a request")

    # Then what was begun takes none of the room that is left
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_requests_keep_their_order_when_the_clock_is_set_back_between_them(folder, monkeypatch) -> None:
    # Given a clock that is set back by an hour
    now = time.time_ns()
    readings = iter([now, now - 3600 * 10**9, now - 3599 * 10**9])
    monkeypatch.setattr(time, "time_ns", lambda: next(readings))
    directory = folder()

    # When three requests are kept
    kept = [directory.put(b"%d" % number) for number in range(3)]

    # Then the first is still the oldest
    assert directory.waiting() == kept


def test_the_oldest_are_dropped_and_counted_when_there_are_too_many_files(tmp_path, monkeypatch) -> None:
    # Given room for three small files
    monkeypatch.setattr(spool_directory, "_MAX_FILES", 3)
    losses = Losses()
    directory = SpoolDirectory(tmp_path, "d", max_bytes=MIB, max_age_seconds=60, losses=losses)

    # When five come
    kept = [directory.put(b"a request") for _ in range(5)]

    # Then the newest wait
    assert directory.waiting() == kept[2:]
    assert losses.requests == {"the spool is full": 2}


def test_a_damaged_file_that_is_dropped_for_room_is_no_lost_request(tmp_path) -> None:
    # Given a file that was set aside, and room for no other
    losses = Losses()
    directory = SpoolDirectory(tmp_path, "d", max_bytes=KIB, max_age_seconds=60, losses=losses)
    damaged = directory.put(b"x" * 600)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert directory.read(damaged) is None
    assert len(files(tmp_path, ".damaged")) == 1

    # When a request needs its room
    kept = directory.put(b"y" * 600)

    # Then it is gone, and was said to be damaged already
    assert files(tmp_path, ".damaged") == []
    assert directory.waiting() == [kept]
    assert losses.requests == {}


@pytest.mark.parametrize(
    ("grpc_code", "status"),
    [(grpc.StatusCode.INVALID_ARGUMENT, 400), (grpc.StatusCode.UNAUTHENTICATED, 401)],
)
def test_what_the_backend_refuses_for_good_is_dropped_and_counted(
    grpc_code, status, backend, app, spans, tmp_path, wait_until, caplog
) -> None:
    # Given a request on disk, and a backend that comes back and does not want it
    shop = app()
    backend.stop()
    shop.exporter.export(numbered(spans, 0))
    backend.abort_with = grpc_code if backend.protocol == "grpc" else status

    # When
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then it does not block those behind it
    assert shop.transport._losses.requests == {"refused by the backend": 1}
    assert any("(refused by the backend): 1," in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("backend", "code"),
    [
        *(("http", status) for status in (429, 502, 503, 504)),
        ("grpc", grpc.StatusCode.CANCELLED),
        ("grpc", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("grpc", grpc.StatusCode.ABORTED),
        ("grpc", grpc.StatusCode.OUT_OF_RANGE),
        ("grpc", grpc.StatusCode.UNAVAILABLE),
        ("grpc", grpc.StatusCode.DATA_LOSS),
    ],
    indirect=["backend"],
)
def test_what_the_backend_cannot_take_now_stays(code, backend, app, spans, tmp_path, wait_until) -> None:
    # Given two requests on disk, of a backend that asks for patience
    shop = app()
    backend.abort_with = code
    for number in range(2):
        shop.exporter.export(numbered(spans, number))
    of_the_exporter = backend.refused

    # When it has said so to the spool too, and then takes what comes
    wait_until(lambda: backend.refused > of_the_exporter)
    backend.abort_with = None
    wait_until(lambda: not files(tmp_path))

    # Then nothing was given up
    assert backend.numbers == [0, 1]
    assert shop.transport._losses.requests == {}


def test_what_exhausts_the_backend_is_dropped_when_it_asks_for_no_other_try(
    grpc_backend, installed, spans, tmp_path, wait_until
) -> None:
    # Given a request on disk that is too much for the backend, which does not say when to try again
    shop = App(grpc_backend, installed, tmp_path / "spool")
    grpc_backend.abort_with = grpc.StatusCode.RESOURCE_EXHAUSTED
    shop.exporter.export(numbered(spans, 0))

    # When it has said so to the spool too, and then takes what comes
    wait_until(lambda: not files(tmp_path), limit_seconds=20)
    grpc_backend.abort_with = None
    shop.exporter.export(numbered(spans, 1))

    # Then that one is given up, and the next one passes
    assert grpc_backend.numbers == [1]
    assert shop.transport._losses.requests == {"refused by the backend": 1}


def test_what_exhausts_the_backend_stays_when_it_asks_for_another_try(
    grpc_backend, installed, spans, tmp_path, wait_until
) -> None:
    # Given a request on disk that is too much for the backend now, which says when to try again
    shop = App(grpc_backend, installed, tmp_path / "spool")
    grpc_backend.abort_with = grpc.StatusCode.RESOURCE_EXHAUSTED
    grpc_backend.abort_trailers = (("google.rpc.retryinfo-bin", b""),)
    shop.exporter.export(numbered(spans, 0))
    of_the_exporter = grpc_backend.refused

    # When it has said so to the spool too, and then takes what comes
    wait_until(lambda: grpc_backend.refused > of_the_exporter)
    grpc_backend.abort_with = None
    wait_until(lambda: not files(tmp_path))

    # Then nothing was given up
    assert grpc_backend.numbers == [0]
    assert shop.transport._losses.requests == {}


def test_nobody_else_can_read_it_and_no_secret_is_in_it(backend, app, spans, tmp_path) -> None:
    shop = app()
    backend.stop()
    shop.exporter.export(numbered(spans, 0))

    for path in (tmp_path / "spool").rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
        assert SECRET not in str(path)
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_directory_that_was_there_keeps_its_mode(backend, app, spans, tmp_path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)

    app()

    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o755
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()] == [0o700]


def test_our_own_folder_is_closed_to_others_also_when_it_was_there(folder, tmp_path) -> None:
    # Given our folder with the mode of a copy or a backup
    ours = tmp_path / "d"
    ours.mkdir()
    ours.chmod(0o755)

    # When it is used
    folder().create()

    assert stat.S_IMODE(ours.stat().st_mode) == 0o700


def test_a_link_in_place_of_our_folder_is_not_followed(backend, app, spans, tmp_path, caplog) -> None:
    # Given a directory where somebody foresaw the name of our folder
    app().transport.uninstall()
    (folder,) = (tmp_path / "spool").iterdir()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")

    # When
    shop = app()
    result = shop.exporter.export(spans())

    # Then the spool is off, with the reason, and spans travel
    assert shop.spool is None
    assert result is SpanExportResult.SUCCESS
    assert [message for message in caplog.messages if "is not used" in message] == [
        f"OTEL_PYINSTRUMENT_SPOOL_DIR={tmp_path / 'spool'}: the spool is not used: {folder} is not a "
        "directory; name a directory that the service's user may write to"
    ]


@pytest.mark.parametrize("name", ["_credentials", "_endpoint", "_headers"])
def test_an_exporter_of_another_version_works_without_the_spool(
    name, grpc_backend, installed, spans, tmp_path, caplog
) -> None:
    # Given an exporter that keeps something elsewhere than we look
    exporter = grpc_backend.exporter()
    value = vars(exporter).pop(name)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    # When
    installed(provider, spool_dir=str(tmp_path / "spool"), max_request_bytes=64 * KIB)
    setattr(exporter, name, value)
    result = exporter.export(spans(2, payload_bytes=40 * KIB))

    # Then one warning says so, and batches are still split
    assert result is SpanExportResult.SUCCESS
    assert len(grpc_backend.bodies) == 2
    (warning,) = caplog.messages
    assert warning.startswith(f"OTEL_PYINSTRUMENT_SPOOL_DIR={tmp_path / 'spool'}: the spool is not used: ")


def test_a_disk_that_cannot_be_written_falls_back_to_the_exporter(
    backend, app, spans, tmp_path, caplog
) -> None:
    # Given requests that wait, and a folder that then becomes unusable
    shop = app()
    backend.stop()
    shop.exporter.export(spans())
    (folder,) = (tmp_path / "spool").iterdir()
    folder.rename(tmp_path / "moved")
    folder.write_text("not a folder")
    backend.start()

    # When
    result = shop.exporter.export(numbered(spans, 7))

    # Then
    assert result is SpanExportResult.SUCCESS
    assert backend.numbers == [7]
    assert any("writing to the spool failed" in message for message in caplog.messages)


def disk_is_full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_batch_that_is_neither_sent_nor_kept_has_failed(backend, app, spans, tmp_path, monkeypatch) -> None:
    # Given a backend that is away, and a disk that is full
    shop = app()
    backend.stop()
    monkeypatch.setattr(os, "fsync", disk_is_full)

    # When
    result = shop.exporter.export(spans())

    # Then whoever counts the losses hears of it
    assert result is SpanExportResult.FAILURE
    assert files(tmp_path) == []


def test_a_spool_that_was_deleted_is_made_again(backend, app, spans, tmp_path, wait_until) -> None:
    shop = app()
    for path in (tmp_path / "spool").iterdir():
        path.rmdir()
    (tmp_path / "spool").rmdir()
    backend.stop()

    shop.exporter.export(numbered(spans, 0))
    backend.start()

    wait_until(lambda: backend.numbers == [0])


def test_other_services_and_endpoints_have_folders_of_their_own(backend, app, installed, tmp_path) -> None:
    app()
    other = TracerProvider(resource=Resource({"service.name": "other"}), shutdown_on_exit=False)
    other.add_span_processor(SimpleSpanProcessor(backend.exporter()))
    installed(other, spool_dir=str(tmp_path / "spool"))

    assert len(list((tmp_path / "spool").iterdir())) == 2


def test_two_exporters_of_one_directory_deliver_everything_once(
    backend, app, spans, tmp_path, wait_until
) -> None:
    # Given two that write to the same folder, as two worker processes do
    shops = [app(), app()]
    backend.stop()
    for number in range(40):
        shops[number % 2].exporter.export(numbered(spans, number))

    # When both replay
    backend.start()
    wait_until(lambda: not files(tmp_path))

    # Then
    assert backend.numbers == list(range(40))


HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from otel_pyinstrument.transport.losses import Losses
from otel_pyinstrument.transport.spool_directory import SpoolDirectory
folder = Path(sys.argv[1])
directory = SpoolDirectory(folder.parent, folder.name, max_bytes=1 << 30, max_age_seconds=60, losses=Losses())
with directory.replay_lock() as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_killed_process_gives_its_lock_back(grpc_backend, installed, spans, tmp_path, wait_until) -> None:
    # Given another process that replays
    shop = App(grpc_backend, installed, tmp_path / "spool")
    (folder,) = (tmp_path / "spool").iterdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, folder], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "True\n"
        grpc_backend.stop()
        shop.exporter.export(numbered(spans, 0))
        grpc_backend.start()
        wait_until(lambda: shop.spool._away)
        assert len(files(tmp_path)) == 1

        # When it is killed
        holder.kill()
        wait_until(lambda: not files(tmp_path))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()

    assert grpc_backend.numbers == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_replays_for_itself(installed, spans, tmp_path, wait_until) -> None:
    # Given a parent with requests on disk, its thread, and its lock held in the middle of a replay
    directory = SpoolDirectory(tmp_path, "d", max_bytes=MIB, max_age_seconds=60, losses=Losses())
    delivered = tmp_path / "delivered"
    hanging, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Sender:
        def __enter__(self):
            return self.send

        def __exit__(self, *_):
            return None

        def send(self, body: bytes) -> spool.Answer:
            if os.getpid() == parent:
                hanging.set()
                go_on.wait()
                return spool.Answer.LATER
            with delivered.open("ab") as file:
                file.write(body + b"\n")
            return spool.Answer.DELIVERED

    kept = spool.Spool(directory, Sender, losses=Losses())
    kept.put(b"of the parent")
    assert hanging.wait(10)

    # When a child is forked, and the parent gives up its lock
    with kept._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs would outlive the test
            kept.put(b"of the child")
            kept.drain(0)
            end = time.monotonic() + 20
            while kept._thread is not None and time.monotonic() < end:
                time.sleep(0.01)
            os._exit(0 if kept._thread is None else 1)
    kept._stop.set()
    go_on.set()
    _, status = os.waitpid(child, 0)
    kept.stop()

    # Then the child has delivered both
    assert os.waitstatus_to_exitcode(status) == 0
    assert delivered.read_bytes() == b"of the parent\nof the child\n"


def test_replaying_makes_no_spans(tmp_path, wait_until) -> None:
    # Given that HTTP exporters send with libraries that may be instrumented
    suppressed = []

    class Sender:
        def __enter__(self):
            return self.send

        def __exit__(self, *_):
            return None

        def send(self, body: bytes) -> spool.Answer:
            suppressed.append(is_instrumentation_enabled())
            return spool.Answer.DELIVERED

    directory = SpoolDirectory(tmp_path, "d", max_bytes=MIB, max_age_seconds=60, losses=Losses())
    kept = spool.Spool(directory, Sender, losses=Losses())

    kept.put(b"a request")
    wait_until(lambda: not files(tmp_path))

    assert suppressed == [False]


def test_nothing_is_written_and_no_thread_runs_while_all_is_well(backend, app, spans, tmp_path) -> None:
    shop = app()

    shop.exporter.export(spans(5))

    assert len(backend.spans) == 5
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert shop.spool._thread is None


def test_batches_are_split_before_they_are_kept(backend, app, spans, tmp_path, wait_until) -> None:
    shop = app()
    backend.stop()

    shop.exporter.export(spans(128, payload_bytes=64 * KIB))
    assert max(path.stat().st_size for path in files(tmp_path)) < 4 * MIB
    backend.start()
    wait_until(lambda: not files(tmp_path))

    assert backend.numbers == list(range(128))


def test_uninstalling_leaves_the_files_and_stops_the_thread(backend, app, spans, tmp_path) -> None:
    shop = app()
    backend.stop()
    shop.exporter.export(spans())
    thread = shop.spool._thread

    shop.transport.uninstall()

    assert not thread.is_alive()
    assert len(files(tmp_path)) == 1
    assert "shutdown" not in vars(shop.exporter)


# --- faster than one after the other ---------------------------------------------------------------------


class Line:
    """A backend: `answer` gets each request."""

    def __init__(self, answer=lambda _body: spool.Answer.DELIVERED) -> None:
        self.answer = answer
        self.delivered: list[bytes] = []

    def __call__(self) -> Line:
        return self

    def __enter__(self):
        return self.send

    def __exit__(self, *_):
        return None

    def send(self, body: bytes) -> spool.Answer:
        answer = self.answer(body)
        if answer is spool.Answer.DELIVERED:
            self.delivered.append(body)
        return answer


@pytest.fixture
def folder(tmp_path):
    """Makes what one process has of a folder that it shares with others."""

    def make() -> SpoolDirectory:
        return SpoolDirectory(tmp_path, "d", max_bytes=MIB, max_age_seconds=60, losses=Losses())

    return make


@contextmanager
def replayed_elsewhere(directory: SpoolDirectory):
    """In this block nobody else replays. Waits for who still does."""
    deadline = time.monotonic() + 60
    while True:
        with directory.replay_lock() as ours:
            if ours:
                yield
                return
        assert time.monotonic() < deadline, "somebody else replays without an end"
        time.sleep(0.01)


def test_a_spool_drains_although_more_comes_than_one_after_the_other_could_be_sent(
    folder, tmp_path, wait_until
) -> None:
    # Given what an outage has left, and others that write two requests while one is being sent
    others = folder()
    requests = iter([b"%03d;" % number for number in range(300)])
    for _ in range(50):
        others.put(next(requests))
    waiting = []

    def answer(_body: bytes) -> spool.Answer:
        for _ in range(2):
            if (request := next(requests, None)) is not None:
                others.put(request)
        waiting.append(len(files(tmp_path)))
        return spool.Answer.DELIVERED

    line = Line(answer)

    # When
    kept = spool.Spool(folder(), line, losses=Losses(), max_bytes=KIB)
    assert kept.waits()
    wait_until(lambda: not files(tmp_path))

    # Then what waits does not grow, and everything arrives in its order
    assert max(waiting) <= 60
    assert b"".join(line.delivered) == b"".join(b"%03d;" % number for number in range(300))


def test_requests_are_put_together_up_to_the_size_that_is_taken(folder, tmp_path, wait_until) -> None:
    directory = folder()
    for size in (100, 400, 500, 101, 2000, 5):
        directory.put(b"x" * size)
    line = Line()

    assert spool.Spool(folder(), line, losses=Losses(), max_bytes=1000).waits()
    wait_until(lambda: not files(tmp_path))

    # The first alone, and a large one as it is
    assert list(map(len, line.delivered)) == [100, 900, 101, 2000, 5]


def test_one_that_is_refused_costs_none_of_those_it_was_sent_with(folder, tmp_path, wait_until) -> None:
    directory, losses = folder(), Losses()
    for body in (b"first", b"good", b"bad", b"better"):
        directory.put(body)
    refused, delivered = spool.Answer.REFUSED, spool.Answer.DELIVERED
    line = Line(lambda body: refused if b"bad" in body else delivered)

    assert spool.Spool(folder(), line, losses=losses, max_bytes=KIB).waits()
    wait_until(lambda: not files(tmp_path))

    assert line.delivered == [b"first", b"good", b"better"]
    assert losses.requests == {"refused by the backend": 1}


def test_each_part_of_a_refused_request_is_removed_after_its_own_answer(folder, tmp_path, wait_until) -> None:
    # Given a backend that takes no two requests as one
    directory = folder()
    for body in (b"1", b"2", b"3", b"4"):
        directory.put(body)
    waiting = []

    def answer(body: bytes) -> spool.Answer:
        waiting.append((body, len(files(tmp_path))))
        return spool.Answer.REFUSED if len(body) > 1 else spool.Answer.DELIVERED

    # When
    assert spool.Spool(folder(), Line(answer), losses=Losses(), max_bytes=KIB).waits()
    wait_until(lambda: not files(tmp_path))

    # Then a process that is killed in between sends none of those before again
    assert waiting == [(b"1", 4), (b"234", 3), (b"2", 3), (b"3", 2), (b"4", 1)]


class SlowLine(Line):
    """A backend that gives no answer in time to a request of more than 150 bytes."""

    def __init__(self) -> None:
        super().__init__(self._in_time)
        self.unanswered_bytes = 0

    def _in_time(self, body: bytes) -> spool.Answer:
        if len(body) <= 150:
            return spool.Answer.DELIVERED
        self.unanswered_bytes += len(body)
        return spool.Answer.LATER


def test_a_backend_that_cannot_take_a_whole_group_in_time_gets_smaller_ones(
    folder, tmp_path, wait_until
) -> None:
    # Given many requests, of which it takes one at a time
    directory = folder()
    bodies = [b"%0100d" % number for number in range(100)]
    for body in bodies:
        directory.put(body)
    line = SlowLine()

    # When
    assert spool.Spool(folder(), line, losses=Losses(), max_bytes=KIB).waits()
    wait_until(lambda: not files(tmp_path))

    # Then they arrive in their order, and less is sent in vain than is delivered
    assert line.delivered == bodies
    assert 0 < line.unanswered_bytes < sum(map(len, line.delivered))


def test_a_backend_that_has_become_faster_gets_large_groups_again(folder, tmp_path, wait_until) -> None:
    # Given a spool whose backend could take no two requests in time
    directory = folder()
    for _ in range(10):
        directory.put(b"x" * 100)
    line = SlowLine()
    kept = spool.Spool(folder(), line, losses=Losses(), max_bytes=KIB)
    assert kept.waits()
    wait_until(lambda: len(line.delivered) == 10 and not kept.waits())

    # When it can, and many wait
    line.answer = lambda _body: spool.Answer.DELIVERED
    with replayed_elsewhere(folder()):
        for _ in range(100):
            assert kept.put(b"x" * 100)
    wait_until(lambda: not files(tmp_path))

    # Then they travel in as few requests as ever
    assert max(map(len, line.delivered)) == 1000


def test_nobody_waits_for_what_others_have_written_later(folder, tmp_path, wait_until) -> None:
    # Given two processes with a request each, of which the second is being sent for long
    sending, go_on = threading.Event(), threading.Event()

    def answer(body: bytes) -> spool.Answer:
        if body == b"of the second":
            sending.set()
            assert go_on.wait(20)
        return spool.Answer.DELIVERED

    line = Line(answer)
    first, second = (spool.Spool(folder(), line, losses=Losses()) for _ in range(2))
    with replayed_elsewhere(folder()):
        first.put(b"of the first")
        second.put(b"of the second")
        assert (first.waits(), second.waits()) == (True, True)

    # When the first one's is there
    assert sending.wait(20)

    # Then what comes now from there need not go by the disk
    try:
        assert line.delivered == [b"of the first"]
        assert (first.waits(), second.waits()) == (False, True)
    finally:
        go_on.set()
    wait_until(lambda: not files(tmp_path))
    first.stop()
    second.stop()


# --- how long it pauses ----------------------------------------------------------------------------------


class SkippedPauses(threading.Event):
    """Ends every pause at once, and remembers how long it should have been."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return super().wait(0.001)


@pytest.fixture
def pausing(folder, monkeypatch):
    """Function (line) -> a spool with a first pause of one second and a longest of four, and its pauses."""
    monkeypatch.setattr(spool, "_FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(spool, "_LONGEST_PAUSE_SECONDS", 4.0)
    made: list[spool.Spool] = []

    def make(line: Line) -> tuple[spool.Spool, SkippedPauses]:
        made.append(spool.Spool(folder(), line, losses=Losses()))
        made[-1]._stop = pauses = SkippedPauses()
        return made[-1], pauses

    yield make
    for each in made:
        each.stop()


def about(*seconds: float):
    """Pauses are spread by a fifth."""
    return pytest.approx(seconds, rel=0.21)


def test_the_pauses_of_a_backend_that_is_away_double_up_to_the_longest(pausing, wait_until) -> None:
    # Given a backend that takes the sixth try
    answers = iter([spool.Answer.LATER] * 5)
    line = Line(lambda _body: next(answers, spool.Answer.DELIVERED))
    kept, pauses = pausing(line)

    # When a request is kept
    kept.put(b"a request")
    wait_until(lambda: kept._thread is None)

    # Then
    assert line.delivered == [b"a request"]
    assert tuple(pauses.seconds) == about(1, 1, 2, 4, 4, 4)


def test_after_a_request_was_delivered_the_next_pause_is_a_short_one_again(
    pausing, folder, wait_until
) -> None:
    # Given a backend that is away for long, takes one request, and is away once more
    later, delivered = spool.Answer.LATER, spool.Answer.DELIVERED
    answers = iter([later, later, later, delivered, later])
    line = Line(lambda _body: next(answers, delivered))
    kept, pauses = pausing(line)

    # When two wait that others have kept
    others = folder()
    others.put(b"first")
    others.put(b"second")
    assert kept.waits()
    wait_until(lambda: kept._thread is None)

    # Then
    assert line.delivered == [b"first", b"second"]
    assert tuple(pauses.seconds) == about(1, 2, 4, 1)


def test_who_finds_that_another_process_replays_pauses_before_it_looks_again(
    pausing, folder, wait_until
) -> None:
    # Given another process that replays
    line = Line()
    kept, pauses = pausing(line)
    with replayed_elsewhere(folder()):
        # When a request is kept
        kept.put(b"a request")

        # Then the thread does not spin
        wait_until(lambda: len(pauses.seconds) > 3, limit_seconds=20)
        assert tuple(pauses.seconds[:4]) == about(1, 1, 2, 4)
    wait_until(lambda: line.delivered == [b"a request"])


def test_of_a_refused_group_nothing_more_is_sent_once_the_spool_is_stopped(
    folder, tmp_path, wait_until
) -> None:
    # Given a backend that takes no two requests as one, and is slow with the first of a group
    directory = folder()
    for body in (b"1", b"2", b"3", b"4"):
        directory.put(body)
    sending, go_on = threading.Event(), threading.Event()

    def answer(body: bytes) -> spool.Answer:
        if body == b"2":
            sending.set()
            assert go_on.wait(20)
        return spool.Answer.REFUSED if len(body) > 1 else spool.Answer.DELIVERED

    line = Line(answer)
    kept = spool.Spool(folder(), line, losses=Losses(), max_bytes=KIB)
    assert kept.waits()
    thread = kept._thread
    assert sending.wait(20)

    # When the spool is stopped meanwhile
    stopping = threading.Thread(target=kept.stop)
    stopping.start()
    wait_until(kept._stop.is_set)
    go_on.set()
    stopping.join()
    thread.join()

    # Then the rest waits for the next process
    assert line.delivered == [b"1", b"2"]
    assert len(files(tmp_path)) == 2


# --- a thread that ends or cannot be started -------------------------------------------------------------


def test_the_thread_survives_that_no_more_files_can_be_opened(
    folder, tmp_path, wait_until, monkeypatch
) -> None:
    # Given that this happens when the thread looks whether it may end
    delivered, failed = threading.Event(), threading.Event()
    scandir = os.scandir

    def scan(path):
        if delivered.is_set() and not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return scandir(path)

    def answer(_body: bytes) -> spool.Answer:
        delivered.set()
        return spool.Answer.DELIVERED

    monkeypatch.setattr(os, "scandir", scan)
    line = Line(answer)
    kept = spool.Spool(folder(), line, losses=Losses())
    kept.put(b"before")
    assert failed.wait(20)

    # When another request is kept
    kept.put(b"after")
    wait_until(lambda: line.delivered == [b"before", b"after"])

    # Then nothing stands behind it
    wait_until(lambda: not kept.waits() and kept._thread is None)


@pytest.fixture
def no_more_threads(monkeypatch):
    """Context manager in which no thread can be started, as at a limit of the system or at the very end."""

    @contextmanager
    def none_starts():
        def start(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            yield

    return none_starts


def test_a_request_is_kept_when_no_thread_can_be_started_and_goes_with_the_next_one(
    folder, wait_until, no_more_threads
) -> None:
    line = Line()
    kept = spool.Spool(folder(), line, losses=Losses())
    with no_more_threads():
        assert kept.put(b"first")

    kept.put(b"second")

    wait_until(lambda: line.delivered == [b"first", b"second"])


def test_a_later_look_sends_what_was_found_when_no_thread_could_be_started(
    folder, tmp_path, wait_until, no_more_threads, monkeypatch
) -> None:
    # Given what another process has left, and a look that can start no thread
    monkeypatch.setattr(spool, "_LOOK_SECONDS", 0.0)
    folder().put(b"of another")
    line = Line()
    kept = spool.Spool(folder(), line, losses=Losses())
    with no_more_threads():
        # Then new requests go directly: behind something that nobody sends they would never arrive
        assert not kept.waits()

    # When threads can be started at the next look
    assert kept.waits()

    # Then
    wait_until(lambda: line.delivered == [b"of another"] and not files(tmp_path))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
def test_what_a_signal_handler_raises_meanwhile_passes_and_makes_no_second_thread(
    folder, wait_until, monkeypatch
) -> None:
    # Given a signal of the application just when the thread has been started
    go_on = threading.Event()
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        signal.raise_signal(signal.SIGUSR1)

    def handler(*_: object) -> None:
        raise RuntimeError("of the application")

    def answer(_body: bytes) -> spool.Answer:
        assert go_on.wait(20)
        return spool.Answer.DELIVERED

    line = Line(answer)
    kept = spool.Spool(folder(), line, losses=Losses())
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(RuntimeError, match="of the application"):
                kept.put(b"first")
    finally:
        signal.signal(signal.SIGUSR1, before)

    # When another request is kept
    kept.put(b"second")

    # Then one thread sends both
    names = [thread.name for thread in threading.enumerate()]
    go_on.set()
    assert names.count("otel-pyinstrument-spool") == 1
    wait_until(lambda: line.delivered == [b"first", b"second"])


END_A_SPAN_IN_A_SIGNAL_HANDLER = """
import os, signal, sys, threading
from pathlib import Path
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.transport.install import Transport

endpoint, folder, moment = sys.argv[1:]
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=0.3)))
Transport(provider, Settings(spool_dir=folder)).install()
tracer = provider.get_tracer("test")
owner, name = {
    "its file is written": (os, "fsync"),
    "the thread is made": (threading.Thread, "__init__"),
    "the thread is started": (threading.Thread, "start"),
}[moment]
original = getattr(owner, name)

def interrupted(*arguments, **named):
    result = original(*arguments, **named)
    setattr(owner, name, original)
    signal.raise_signal(signal.SIGUSR1)
    return result

signal.signal(signal.SIGUSR1, lambda *_: tracer.start_span("of the handler").end())
setattr(owner, name, interrupted)
tracer.start_span("of the application").end()
threads = [thread.name for thread in threading.enumerate()].count("otel-pyinstrument-spool")
print(getattr(owner, name) is original, len(list(Path(folder).rglob("*.otlp"))), threads, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
@pytest.mark.parametrize("moment", ["its file is written", "the thread is made", "the thread is started"])
def test_a_span_that_a_signal_handler_ends_while_another_is_kept_is_kept_too(
    moment: str, tmp_path: Path
) -> None:
    # Given an application whose backend is away
    (port,) = find_free_ports(1)
    arguments = [f"http://127.0.0.1:{port}/v1/traces", str(tmp_path / "spool"), moment]

    # When a signal comes while it keeps a request, and the handler makes a span
    run = subprocess.run(
        [sys.executable, "-c", END_A_SPAN_IN_A_SIGNAL_HANDLER, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )

    # Then both are on disk, and one thread cares for them
    assert run.stdout == "True 2 1\n", run.stderr


def test_what_a_finalizer_keeps_while_the_thread_looks_whether_it_may_end_is_sent(
    folder, tmp_path, wait_until, monkeypatch
) -> None:
    # Given a finalizer of the application that exports a span, just when nothing waits any more
    directory, line = folder(), Line()
    look = directory.waiting

    def waiting() -> list[Path]:
        found = look()
        if not found and line.delivered == [b"first"]:
            assert kept.put(b"of the finalizer")
        return found

    monkeypatch.setattr(directory, "waiting", waiting)
    kept = spool.Spool(directory, line, losses=Losses())

    # When
    assert kept.put(b"first")

    # Then it does not stay until the next look
    wait_until(lambda: line.delivered == [b"first", b"of the finalizer"])
    wait_until(lambda: kept._thread is None and not files(tmp_path))
