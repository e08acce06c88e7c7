"""`overhead` with real Flask, FastAPI and plain applications, in the processes that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from otel_pyinstrument.command.__main__ import main
from otel_pyinstrument.command.measuring.application import (
    ApplicationNotFound,
    detected_interface,
    load_application,
)
from otel_pyinstrument.command.measuring.comparison import compare, ratio, verdict
from otel_pyinstrument.command.measuring.contender import Plan, Result
from otel_pyinstrument.command.measuring.rounds import CONTENDERS, CannotRun, environment_of, measure_once
from otel_pyinstrument.settings import Settings

FLASK = """
import os
from flask import Flask, request

app = Flask(__name__)

@app.get("/")
def index():
    return str(sum(i * i for i in range(3000)))

@app.get("/boom")
def boom():
    raise ValueError("out of stock")

@app.get("/host")
def host():
    assert request.host == "shop.example" and request.args["page"] == "2", request.host
    return "right"
"""

FASTAPI = """
from contextlib import asynccontextmanager
from fastapi import FastAPI

def create_app():
    @asynccontextmanager
    async def lifespan(app):
        app.state.ready = True
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/items/{number}")
    async def item(number: int):
        assert app.state.ready
        return {"sum": sum(i * i for i in range(3000))}

    @app.get("/sync")
    def in_a_thread():
        return "done"

    return app
"""

PLAIN = """
def wsgi(environ, start_response):
    start_response("200 OK", [])
    yield str(sum(i * i for i in range(3000))).encode()

def raises(environ, start_response):
    raise RuntimeError("never\\nanswers")

class Asgi:
    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

asgi = Asgi()

async def fails_to_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

def hangs(environ, start_response):
    import time
    open("hanging", "w").close()
    time.sleep(600)

number = 7
"""

IN_CODE = """
from otel_pyinstrument import PyinstrumentInstrumentor
from shop_flask import app

PyinstrumentInstrumentor().instrument(rate=1, cpu_budget=1)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "shop_flask.py").write_text(FLASK)
    (tmp_path / "shop_fastapi.py").write_text(FASTAPI)
    (tmp_path / "shop_plain.py").write_text(PLAIN)
    (tmp_path / "shop_in_code.py").write_text(IN_CODE)
    return tmp_path


@pytest.fixture
def overhead(directory, monkeypatch, capsys):
    """Function (arguments) -> exit code, stdout, stderr; in `directory`."""
    monkeypatch.chdir(directory)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["overhead", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def plan(directory):
    """Function (contender, target, changes) -> a small plan."""

    def make(contender: str, target: str, *paths: str, **changes: object) -> Plan:
        values = {
            "interface": None,
            "headers": [],
            "requests": 8,
            "warm_up": 2,
            "concurrency": 1,
            "settings": Settings()._asdict(),
            **changes,
        }
        return Plan(contender, target, str(directory), paths=list(paths) or ["/"], **values)

    return make


def once(plan: Plan) -> Result:
    return measure_once(plan, limit_seconds=120)


# --- The command -----------------------------------------------------------------------------------------


def test_a_flask_application_gets_a_table_of_all_contenders_with_failed_requests_named(overhead) -> None:
    code, out, err = overhead(
        *("shop_flask:app", "/", "/boom", "/nowhere"),
        *("--requests", "12", "--rounds", "1", "--warm-up", "2"),
    )

    assert code == 1, err
    assert "shop_flask:app (WSGI)" in out
    for title in CONTENDERS.values():
        assert title in out
        assert f"round 1 of 1: {title}" in err
    assert "100.0%" in out
    assert "too few rounds to tell that from noise" in out
    assert "failed: GET /boom: status 500 (the application alone: 4," in out
    assert "doubtful: GET /nowhere: status 404" in out
    assert "\r" not in out + err


def test_a_fastapi_factory_is_measured_concurrently_and_as_json(overhead) -> None:
    code, out, err = overhead(
        *("shop_fastapi:create_app()", "/items/7", "/sync", "--json"),
        *("--requests", "16", "--rounds", "1", "--concurrency", "4"),
    )

    document = json.loads(out)
    assert code == 0, err
    assert (document["interface"], document["failures"], document["doubts"]) == ("asgi", {}, {})
    contenders = document["contenders"]
    assert list(contenders) == list(CONTENDERS)
    assert contenders["ours_every_request"]["profiled_share"] == 1.0
    assert contenders["plain"]["cpu_ratio_to_otel"] is None
    for measured in contenders.values():
        assert measured["cpu_ms_per_request"]["median"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shop_flask:nothing"], "AttributeError"),
        (["no_such_module:app"], "ModuleNotFoundError"),
        (["shop_plain:number"], "cannot be called"),
        (["shop_plain:fails_to_start"], "no database"),
        (["shop_flask:app", "--concurrency", "2"], "ASGI"),
        (["shop_flask:app", "--app-dir", "/no/such/directory"], "is no directory"),
    ],
)
def test_what_cannot_be_run_is_said_without_a_traceback_and_is_wrong_use(overhead, arguments, said) -> None:
    code, out, err = overhead(*arguments, "--requests", "2", "--rounds", "1")

    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["shop_flask"],
        ["shop_flask:app", "orders"],
        ["shop_flask:app", "--requests", "0"],
        ["shop_flask:app", "--rounds", "-1"],
        ["shop_flask:app", "--header", "Host"],
        [],
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["overhead", *arguments])

    assert raised.value.code == 2


def test_ctrl_c_ends_all_processes_and_says_so(directory) -> None:
    # Given an application that never answers
    command = [str(Path(sys.executable).with_name("otel-pyinstrument")), "overhead", "shop_plain:hangs"]
    # As in a terminal, also where this test runs in the background, with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    end = time.monotonic() + 60
    while not (directory / "hanging").exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)

    # When the user presses Ctrl-C: the terminal signals the whole group
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)

    # Then
    assert process.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# --- One run ---------------------------------------------------------------------------------------------


def test_nothing_of_profiling_or_tracing_runs_in_the_plain_contender(plan, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "1")

    assert once(plan("plain", "shop_flask:app")).profiled == 0
    assert once(plan("otel", "shop_flask:app")).profiled == 0


def test_an_application_that_switches_profiling_on_in_code_does_not_spoil_the_comparison(plan) -> None:
    assert once(plan("plain", "shop_in_code:app")).profiled == 0
    assert once(plan("otel", "shop_in_code:app")).profiled == 0
    assert once(plan("ours_every_request", "shop_in_code:app")).profiled == 8


@pytest.fixture
def profiled(overhead):
    """Function () -> the shares that both contenders with profiling profile of a Flask application; notes."""

    def run() -> tuple[float, float, list[str]]:
        code, out, err = overhead("shop_flask:app", "--requests", "8", "--rounds", "1", "--json")
        assert code == 0, err
        document = json.loads(out)
        shares = [document["contenders"][name]["profiled_share"] for name in ("ours", "ours_every_request")]
        return (*shares, document["notes"])

    return run


def test_the_effective_settings_come_from_environment_and_file(profiled, directory, monkeypatch) -> None:
    # Given a rate in a file, and a budget in the environment
    (directory / "settings.json").write_text('{"rate": 1, "platform_url": "http://127.0.0.1:9"}')
    monkeypatch.setenv("OTEL_PYINSTRUMENT_CONFIG_FILE", str(directory / "settings.json"))
    monkeypatch.setenv("OTEL_PYINSTRUMENT_CPU_BUDGET", "1")
    assert profiled()[:2] == (1.0, 1.0)

    # When nothing is to be profiled
    monkeypatch.setenv("OTEL_PYINSTRUMENT_ENABLED", "false")

    # Then "these settings" profile nothing, and "every request" every one
    ours, every_request, notes = profiled()
    assert (ours, every_request) == (0.0, 1.0)
    (note,) = [note for note in notes if "none of the measured requests was profiled" in note]
    assert "the warm-up" in note
    assert "needs more --requests" in note


def test_the_rate_of_an_endpoint_is_among_them_and_every_request_has_none(plan) -> None:
    settings = Settings(rate=1.0, endpoint_rates=("/=0",), cpu_budget=1.0)._asdict()

    assert once(plan("ours", "shop_flask:app", settings=settings)).profiled == 0
    assert once(plan("ours_every_request", "shop_flask:app", settings=settings)).profiled == 8


@pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None,
    reason="opentelemetry-configuration needs a newer SDK",
)
def test_options_in_the_file_of_opentelemetry_hold_and_its_provider_does_not(
    profiled, directory, monkeypatch
) -> None:
    # Given a file that would drop every span, and a rate there and in the environment
    path = directory / "otel.yaml"
    path.write_text(
        'file_format: "1.0"\ntracer_provider:\n  sampler: {always_off: }\n'
        "  processors:\n    - simple: {exporter: {console: }}\n"
        "instrumentation/development:\n  python:\n    pyinstrument: {rate: 1}\n"
    )
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(path))
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "0")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_CPU_BUDGET", "1")

    ours, every_request, notes = profiled()

    assert (ours, every_request) == (1.0, 1.0)
    assert any("of OTEL_CONFIG_FILE only the options of pyinstrument hold here" in note for note in notes)


@pytest.mark.parametrize(("target", "interface"), [("wsgi", "wsgi"), ("asgi", "asgi")])
def test_an_application_without_instrumentation_is_wrapped_in_ours(plan, target, interface) -> None:
    result = once(plan("ours_every_request", f"shop_plain:{target}"))

    assert (result.interface, result.wrapped, result.profiled) == (interface, True, 8)
    assert not once(plan("plain", f"shop_plain:{target}")).wrapped
    assert not once(plan("otel", "shop_flask:app")).wrapped


def test_headers_and_query_reach_the_application(plan) -> None:
    headers = [("Host", "shop.example")]

    assert once(plan("plain", "shop_flask:app", "/host?page=2", headers=headers)).failures == {}
    assert once(plan("plain", "shop_flask:app", "/host?page=2")).failures == {"/host?page=2: status 500": 8}


def test_exceptions_are_counted_on_one_line_each(plan) -> None:
    assert once(plan("otel", "shop_plain:raises")).failures == {"/: RuntimeError: never answers": 8}


def test_a_run_that_hangs_is_ended(plan, directory, monkeypatch) -> None:
    from otel_pyinstrument.command.measuring.rounds import RunFailed

    monkeypatch.chdir(directory)
    with pytest.raises(RunFailed, match="not done after 3 s"):
        measure_once(plan("plain", "shop_plain:hangs"), limit_seconds=3)


def test_an_environment_without_a_configurator_is_said(plan, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "no_such_configurator")

    with pytest.raises(CannotRun, match="otel-pyinstrument verify"):
        once(plan("otel", "shop_flask:app"))


def test_nothing_is_exported_and_nothing_is_instrumented_twice() -> None:
    # Given the environment of a service under opentelemetry-instrument
    given = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_CONFIG_FILE": "otel.yaml",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis",
        "PYTHONPATH": os.pathsep.join(["/x/opentelemetry/instrumentation/auto_instrumentation", "/app"]),
        "OTEL_PYINSTRUMENT_RATE": "0.5",
    }

    # When
    plain, ours = environment_of("plain", given), environment_of("ours", given)

    # Then
    for environment in (plain, ours):
        assert {environment[f"OTEL_{name}_EXPORTER"] for name in ("TRACES", "METRICS", "LOGS")} == {"none"}
        assert "OTEL_CONFIG_FILE" not in environment
        assert environment["PYTHONPATH"] == "/app"
        assert environment["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] == "redis,pyinstrument"
    assert plain["OTEL_SDK_DISABLED"] == "true"
    assert "OTEL_SDK_DISABLED" not in ours
    assert ours["OTEL_PYINSTRUMENT_RATE"] == "0.5"


# --- Finding the application -----------------------------------------------------------------------------


def test_the_kind_of_an_application_is_found_out(directory, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))

    found = {
        target: load_application(target, directory=str(directory)).interface
        for target in (
            "shop_flask:app",
            "shop_flask:app.wsgi_app",
            "shop_fastapi:create_app()",
            "shop_plain:asgi",
        )
    }

    assert list(found.values()) == ["wsgi", "wsgi", "asgi", "asgi"]
    assert load_application("shop_plain:wsgi", directory=str(directory), interface="asgi").interface == "asgi"
    assert detected_interface(lambda environ, start_response: []) == "wsgi"
    with pytest.raises(ApplicationNotFound, match="MODULE:APP"):
        load_application("shop_flask", directory=str(directory))


# --- Statistics ------------------------------------------------------------------------------------------


def results(*milliseconds: float, profiled: int = 0) -> list[Result]:
    return [Result(cpu_seconds=value / 1e3, wall_seconds=1.0, profiled=profiled) for value in milliseconds]


def test_ratios_are_taken_within_each_round() -> None:
    # Given a machine that gets three times slower, and a contender that costs 10 % in each round
    base = results(1, 2, 3, 2, 1)
    slower = results(1.1, 2.2, 3.3, 2.2, 1.1)

    found = ratio(slower, base)

    assert found.spread.lowest == pytest.approx(found.spread.highest) == pytest.approx(1.1)
    assert found.verdict == "more"


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.01, 1.02, 1.01, 1.03, 1.01], "more"),
        ([0.97, 0.99, 0.98, 0.99, 0.97], "less"),
        ([1.2, 1.3, 1.2, 0.99, 1.4], "noise"),
        ([1.0] * 5, "noise"),
        ([1.5, 1.6], "too few rounds"),
        ([0.9, 1.1], "noise"),
    ],
)
def test_a_difference_counts_when_all_of_at_least_five_rounds_agree(ratios, expected) -> None:
    assert verdict(ratios) == expected


def test_each_row_has_median_spread_and_share_of_profiled_requests() -> None:
    rows = compare(
        {
            "plain": results(1, 2, 4),
            "otel": results(2, 4, 8),
            "ours": results(2, 4, 8, profiled=5),
            "ours_every_request": results(4, 8, 16, profiled=10),
        },
        requests=10,
    )

    plain, otel, ours, every = rows
    assert tuple(plain.cpu_milliseconds) == pytest.approx((2, 1, 4))
    assert (plain.to_plain, plain.to_otel, otel.to_otel) == (None, None, None)
    assert otel.to_plain.spread.median == pytest.approx(2)
    assert (ours.profiled_share, every.profiled_share) == (0.5, 1.0)
    assert every.to_otel.spread.median == pytest.approx(2)
