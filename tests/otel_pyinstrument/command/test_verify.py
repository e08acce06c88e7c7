"""`verify` without a platform, and with one that misbehaves; the real one is in tests/integration."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk import environment_variables as sdk_variables
from packaging.requirements import Requirement

from otel_pyinstrument.command import verify
from otel_pyinstrument.command.__main__ import main
from otel_pyinstrument.command.verification import delivery, installation
from otel_pyinstrument.command.verification.captured_log import CapturedLog
from otel_pyinstrument.command.verification.declared_remedies import as_declared
from otel_pyinstrument.command.verification.destination import INVALID_METADATA, Answer, Destination
from otel_pyinstrument.command.verification.listener import Listener, Speaks
from otel_pyinstrument.command.verification.platform import Platform, PlatformFailed, clock_offset_seconds
from otel_pyinstrument.command.verification.profiled_request import ProfiledRequest
from otel_pyinstrument.command.verification.provider import check_settings
from otel_pyinstrument.command.verification.remedies import advice
from otel_pyinstrument.command.verification.report import Report, printable

with_declarative_configuration = pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None,
    reason="opentelemetry-configuration needs a newer SDK",
)

FILE = """
file_format: "1.0"
tracer_provider:
  processors:
    - simple: {{exporter: {{{exporter}}}}}
"""
REQUEST = ProfiledRequest("0" * 32, "1" * 16, None, 8)
NAMED = "resource: {attributes: [{name: service.name, value: shop}]}\n"


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def report(out) -> Report:
    return Report(out, io.StringIO())


class FakePlatform:
    """A web server that answers by a function (path) -> (status, body, headers)."""

    def __init__(self) -> None:
        self.answer: Callable[[str], tuple[int, bytes, dict[str, str]]] = lambda _path: (404, b"", {})
        self.authorizations: list[str | None] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.authorizations.append(self.headers.get("Authorization"))
                status, body, headers = fake.answer(self.path)
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def fake() -> Iterator[FakePlatform]:
    made = FakePlatform()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def enveloped(data: object, code: int = 0, msg: str = "success") -> bytes:
    return json.dumps({"code": code, "msg": msg, "data": data}).encode()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed command in an environment with these OTEL variables alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("otel-pyinstrument")), "verify", *arguments],
        env=environment | {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def problems_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("problem")]


# --- The whole command -----------------------------------------------------------------------------------


def test_a_dead_endpoint_is_one_problem_with_a_remedy_and_what_was_not_checked_is_said() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"

        done = run(OTEL_SERVICE_NAME="shop", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)

    problems = problems_of(done)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(problems) == 1
    assert "nobody listens on 127.0.0.1" in problems[0]
    assert "Start the receiver" in problems[0]
    assert done.stdout.count("not checked: set OTEL_PYINSTRUMENT_PLATFORM_URL or --platform-url") == 3


def test_a_spool_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    # Given a file in the place of the spool's directory
    (tmp_path / "spool").write_text("")
    # When
    done = run(OTEL_SERVICE_NAME="shop", OTEL_PYINSTRUMENT_SPOOL_DIR=str(tmp_path / "spool"))
    # Then the variable, the reason and the remedy are told
    (problem,) = (line for line in problems_of(done) if "SPOOL_DIR" in line)
    assert f"OTEL_PYINSTRUMENT_SPOOL_DIR={tmp_path / 'spool'}: the spool is not used" in problem
    assert "name a directory that the service's user may write to" in problem


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    done = run(OTEL_SERVICE_NAME="bücher", OTEL_TRACES_EXPORTER="none", PYTHONIOENCODING="ascii")
    assert done.stderr == ""
    assert "b\\xfccher" in done.stdout


def test_what_exporters_complain_of_while_the_command_ends_stays_off_stderr(monkeypatch, caplog) -> None:
    # Given an exporter that gives up between the last line and the end of the process
    def end(code: int) -> None:
        logging.getLogger("opentelemetry.exporter").warning("Transient error")
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(verify, "verify", lambda *_arguments: 0)

    # When
    with pytest.raises(SystemExit):
        main(["verify"])

    # Then no handler has it, stderr's neither
    assert caplog.messages == []


def test_a_file_of_opentelemetry_that_cannot_be_used_is_one_problem(report, out, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_CONFIG_FILE", "/nowhere/otel.yaml")

    with CapturedLog() as log:
        check_settings(report, log)

    (line,) = out.getvalue().splitlines()
    assert line.startswith("problem   settings       OTEL_CONFIG_FILE=/nowhere/otel.yaml: ")


@pytest.mark.parametrize(
    ("variables", "finding"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED is true"),
        ({"OTEL_SDK_DISABLED": "True"}, "OTEL_SDK_DISABLED is true"),
        ({"OTEL_PYINSTRUMENT_ENABLED": "false"}, "OTEL_PYINSTRUMENT_ENABLED is false"),
        ({"OTEL_PYINSTRUMENT_RATE": "0"}, "OTEL_PYINSTRUMENT_RATE is 0"),
        ({"OTEL_PYINSTRUMENT_RATE": "often"}, "expected a number"),
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask, pyinstrument"}, "switches profiling off"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "spans are not exported"),
        ({"OTEL_TRACES_EXPORTER": "pigeon"}, "pigeon"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "OTEL_TRACES_SAMPLER"),
        ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "0"}, "OTEL_SPAN_EVENT_COUNT_LIMIT"),
        ({"OTEL_PYINSTRUMENT_EVENT": "log"}, "OTEL_LOGS_EXPORTER=otlp"),
        ({"OTEL_SERVICE_NAME": ""}, "Set OTEL_SERVICE_NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_each_variable_that_keeps_profiles_from_arriving_is_the_one_problem(variables, finding) -> None:
    # Given an exporter that needs no receiver, so that nothing else is wrong
    done = run(**{"OTEL_SERVICE_NAME": "shop", "OTEL_TRACES_EXPORTER": "console", **variables})

    problems = problems_of(done)
    assert done.returncode == 1, done.stdout
    assert len(problems) == 1, done.stdout
    assert finding in problems[0], done.stdout


@with_declarative_configuration
def test_in_a_file_of_opentelemetry_its_fields_are_named_instead_of_variables(tmp_path: Path) -> None:
    # Given a file without a service's name and with a dead endpoint, and variables that it makes void
    path = tmp_path / "otel.yaml"
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        path.write_text(FILE.format(exporter=f"otlp_grpc: {{endpoint: 'http://127.0.0.1:{port}'}}"), "utf-8")

        done = run(
            OTEL_CONFIG_FILE=str(path),
            OTEL_SERVICE_NAME="shop",
            OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317",
        )

    # Then both problems say what to correct in it
    service, endpoint = problems_of(done)
    assert "Set `service.name` in `resource.attributes`." in service
    assert (
        f"correct the exporter's `endpoint`; the usual port is 4317 for gRPC. That belongs in {path}"
        in endpoint
    )
    assert "OTEL_SERVICE_NAME" not in done.stdout
    assert "OTEL_EXPORTER" not in done.stdout


@with_declarative_configuration
@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ("  sampler: {always_off: }", "correct the `sampler` of `tracer_provider`."),
        (
            "  limits: {event_count_limit: 0}",
            "An `event_count_limit` of 0 in the `limits` of `tracer_provider` or an earlier failure",
        ),
        (
            "instrumentation/development: {python: {pyinstrument: {event: log}}}",
            "Add a processor with an OTLP exporter to `logger_provider`.",
        ),
    ],
)
def test_each_field_there_that_keeps_profiles_from_arriving_is_the_one_problem(
    more: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "otel.yaml"
    path.write_text(f"{NAMED}{FILE.format(exporter='console: ')}{more}\n", "utf-8")

    done = run(OTEL_CONFIG_FILE=str(path))

    problems = problems_of(done)
    assert len(problems) == 1, done.stdout
    assert remedy in problems[0]


def test_every_remedy_for_an_exporter_can_be_said_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given all that is said about what may listen, and about what it may answer
    monkeypatch.setattr(sdk_variables, "OTEL_CONFIG_FILE", "OTEL_CONFIG_FILE", raising=False)
    monkeypatch.setenv("OTEL_CONFIG_FILE", "otel.yaml")
    answers = [
        Answer(False, code, detail)
        for code in ("", "UNAUTHENTICATED", "PERMISSION_DENIED", *map(str, range(400, 505)))
        for detail in ("", INVALID_METADATA)
    ]
    answers += [Answer(False, status.name) for status in grpc.StatusCode]
    destinations = [
        Destination(None, protocol, "shop", "shop", 4317, has_tls)
        for protocol in ("grpc", "http")
        for has_tls in (True, False)
    ]
    listeners = [None, *(Listener(speaks, detail) for speaks in Speaks for detail in ("", "expired"))]
    remedies = {
        as_declared(advice(destination, answer, listener).remedy)
        for destination, answer, listener in product(destinations, answers, listeners)
    }

    # Then none of it names a variable that the file makes void
    assert len(remedies) > 20
    assert not [text for text in remedies if re.search("OTEL_(?!PYINSTRUMENT|CONFIG_FILE)", text)]
    assert any("otel.yaml" in text for text in remedies)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--platform-url", "127.0.0.1:8000"),
        ("--platform-url", "http://ada:secret@127.0.0.1:8000"),
        ("--timeout", "0"),
        ("--timeout", "soon"),
        ("--token-file", "/nowhere/token"),
        ("--fast",),
    ],
)
def test_wrong_use_is_exit_code_2(arguments, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["verify", *arguments])

    assert raised.value.code == 2
    assert "secret" not in capsys.readouterr().err


# --- The platform ----------------------------------------------------------------------------------------


def test_the_token_is_sent_to_the_platform_and_a_redirect_is_not_followed(fake) -> None:
    fake.answer = lambda _path: (302, b"", {"Location": f"{fake.url}/elsewhere"})

    with pytest.raises(PlatformFailed):
        Platform(fake.url, token="t0ken").project("shop")

    assert fake.authorizations == ["Bearer t0ken"]


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ((200, b"<html>hello</html>", {}), "address of the web interface"),
        ((200, b"[1]", {}), "address of the web interface"),
        ((403, enveloped(None, 1003, "no token"), {}), "--token-file"),
        ((503, enveloped(None, 1006, "no database"), {}), "log"),
        ((200, b'{"code": 0' * 100_000, {}), "address of the web interface"),
    ],
)
def test_an_answer_that_is_none_of_the_platform_is_said(fake, report, out, answer, remedy) -> None:
    fake.answer = lambda _path: answer

    assert not delivery.check_platform(report, Platform(fake.url), [])

    assert report.problems == 1
    assert remedy in out.getvalue()


def test_a_platform_that_is_away_is_said(report, out) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        platform = Platform(f"http://127.0.0.1:{bound.getsockname()[1]}")

        assert not delivery.check_platform(report, platform, [])

    assert "Start the platform" in out.getvalue()


def test_keys_of_different_projects_are_said(fake, report, out) -> None:
    def answer(path: str) -> tuple[int, bytes, dict[str, str]]:
        name = path.rpartition("_")[2]
        return 200, enveloped({"id": name, "name": name}), {}

    fake.answer = answer

    delivery.check_platform(report, Platform(fake.url), [("the header", "opk_one"), ("the rules", "opk_two")])

    assert "name different projects" in out.getvalue()
    assert "opk_" not in out.getvalue()


@pytest.mark.parametrize(("seconds", "problems"), [(0, 0), (-2, 0), (60, 1), (-3600, 1)])
def test_a_clock_that_differs_is_said(fake, report, out, seconds, problems) -> None:
    # Given a platform whose clock differs from this one
    fake.answer = lambda _path: (
        200,
        enveloped({"items": []}),
        {"Date": formatdate(time.time() + seconds, usegmt=True)},
    )
    platform = Platform(fake.url)
    delivery.check_platform(report, platform, [])

    # When
    delivery.check_clock(report, platform)

    # Then
    assert report.problems == problems
    if problems:
        assert ("behind" if seconds > 0 else "ahead of") in out.getvalue()


def test_a_slow_answer_does_not_pass_for_a_wrong_clock() -> None:
    # Given a request of 20 seconds, and a date from anywhere within
    date = formatdate(1_000_015, usegmt=True)

    assert clock_offset_seconds(date, 1_000_000.0, 1_000_020.0) == 0.0
    assert clock_offset_seconds(date, 1_000_100.0, 1_000_101.0) == pytest.approx(85.0)
    assert clock_offset_seconds("yesterday", 0.0, 1.0) is None
    assert clock_offset_seconds(None, 0.0, 1.0) is None


def test_a_project_is_found_by_name_on_a_later_page(fake) -> None:
    def answer(path: str) -> tuple[int, bytes, dict[str, str]]:
        if "?" not in path:
            return 404, enveloped(None, 2001, "no such project"), {}
        page = int(path.split("page=", 1)[1].split("&", 1)[0])
        items = [{"id": f"id{page}", "name": f"shop{page}"}]
        return 200, enveloped({"items": items, "pagination": {"has_next": page < 3}}), {}

    fake.answer = answer

    assert Platform(fake.url).project("shop3").id == "id3"
    assert Platform(fake.url).project("shop4") is None


def test_a_record_is_not_waited_for_in_the_project_of_a_key_that_nobody_knows(fake, report, out) -> None:
    # Given a platform without the project
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes, dict[str, str]]:
        asked.append(path)
        return 404, enveloped(None, 1002, "there is no such project"), {}

    fake.answer = answer
    # When its record is looked for by the key
    delivery.check_record(report, Platform(fake.url), "opk_wrong", REQUEST, is_key=True, timeout_seconds=60)
    # Then that ends with the first answer, and is no second problem
    assert {path.partition("?")[0] for path in asked} == {"/api/v1/projects/opk_wrong", "/api/v1/projects"}
    assert len(asked) == 2
    assert report.problems == 0
    assert "record" in out.getvalue()


def test_a_record_without_its_profile_is_a_problem_with_its_link(fake, report, out) -> None:
    fake.answer = lambda path: (
        200,
        enveloped({"id": "p1", "name": "shop"} if "/projects" in path else {"profile": None}),
        {},
    )

    delivery.check_record(report, Platform(fake.url), "shop", REQUEST, is_key=False, timeout_seconds=0.1)

    assert "arrived without its profile" in out.getvalue()
    assert f"{fake.url}/projects/p1/records/{'0' * 32}{'1' * 16}" in out.getvalue()


# --- The installation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "kind"),
    [((3, 9, 1), "problem"), ((3, 10, 0), "ok"), ((3, 13, 0), "ok"), ((3, 99, 0), "note")],
)
def test_the_python_version_is_compared_with_what_is_supported(report, out, version, kind) -> None:
    installation.check_python(report, version, ">=3.10")

    assert out.getvalue().startswith(kind)


def test_packages_out_of_range_and_missing_ones_come_with_the_command_that_installs_them(report, out) -> None:
    assert installation.fitting_version(report, Requirement("pyinstrument<1")) == ""
    assert installation.fitting_version(report, Requirement("no-such-package-at-all>=1")) == ""
    assert installation.fitting_version(report, Requirement("pyinstrument>=5")) != ""

    assert "pip install 'pyinstrument<1'" in out.getvalue()
    assert "no-such-package-at-all is not installed" in out.getvalue()


@pytest.fixture
def django(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Django and its instrumentation are there, whatever is installed here."""
    monkeypatch.setattr(installation, "_is_installed", lambda _name: True)
    return monkeypatch


def test_that_django_has_no_settings_is_told_with_what_comes_of_it(report, out, django) -> None:
    django.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    installation.check_django(report)
    assert report.problems == 0  # another service may have Django installed
    assert "DJANGO_SETTINGS_MODULE is not set" in out.getvalue()
    assert "500" in out.getvalue()


@pytest.mark.parametrize("module", ["no_such_shop", "no_such_shop.settings", "json.settings", ".settings"])
def test_settings_of_django_that_cannot_be_imported_are_a_problem(report, out, django, module) -> None:
    django.setenv("DJANGO_SETTINGS_MODULE", module)
    installation.check_django(report)
    assert report.problems == 1
    assert f"DJANGO_SETTINGS_MODULE={module} cannot be imported" in out.getvalue()
    assert "PYTHONPATH" in out.getvalue()


def test_settings_of_django_that_can_be_imported_are_no_line(report, out, django) -> None:
    django.setenv("DJANGO_SETTINGS_MODULE", "json.decoder")
    installation.check_django(report)
    assert out.getvalue() == ""


def test_a_changed_library_is_a_problem_and_not_a_traceback(report, out, monkeypatch) -> None:
    from pyinstrument.stack_sampler import StackSampler

    monkeypatch.delattr(StackSampler, "subscribe")

    installation.check_private_names(report)

    assert out.getvalue().startswith("problem   self-test")


# --- The report ------------------------------------------------------------------------------------------


def test_what_comes_from_the_network_cannot_draw_on_the_terminal() -> None:
    assert printable("a\x1b[31m\r\nb\u2028c\x9bd") == "a [31m b c d"
    assert len(printable("x" * 100_000)) < 1_100


def test_colours_are_for_terminals_that_want_them(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    colored, moving = Terminal(), Terminal()
    report = Report(colored, moving)
    report.progress("waiting")
    report.ok("a", "b")
    assert "\x1b[32m" in colored.getvalue()
    assert moving.getvalue() == "waiting\r       \r"

    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Report(plain, Terminal()).ok("a", "b")
    assert "\x1b" not in plain.getvalue()
