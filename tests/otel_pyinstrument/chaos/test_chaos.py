"""Every private name that we rely on, renamed in its library: the application does not notice."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

import otel_pyinstrument

PACKAGE = Path(otel_pyinstrument.__file__).parent
APPLICATION = Path(__file__).parent / "application.py"

OFF = "profiling is off, with one warning"
LESS = "a feature is off, with one warning"
SAME = "there is another way, or nothing but a detail of a profile is missing"

FLASK, FASTAPI, LOGS = "flask", "fastapi", "flask with log events"
SPOOL_HTTP, SPOOL_GRPC = "flask with a spool, http", "flask with a spool, grpc"
PROFILES = {FLASK: 7, FASTAPI: 4, LOGS: 7, SPOOL_HTTP: 7, SPOOL_GRPC: 7}


@dataclass(frozen=True)
class Case:
    """A name that the packages `where` have no more, what runs, and what becomes of it."""

    name: str
    where: tuple[str, ...]
    scenario: str
    effect: str
    missing: str = ""
    """A file that the profile's facts name otherwise."""

    def __str__(self) -> str:
        return f"{self.name} in {self.where[0]}, {self.scenario}"


OTEL, PYINSTRUMENT, SAMPLER = ("opentelemetry",), ("pyinstrument",), ("pyinstrument.stack_sampler",)
JINJA, DJANGO, ASGIREF = ("jinja2",), ("django.template",), ("asgiref",)
ANYIO = ("anyio", "starlette", "fastapi")
UVICORN = ("uvicorn",)

CASES = [
    Case("_RUNTIME_CONTEXT", OTEL, FLASK, SAME),
    Case("_current_context", OTEL, FLASK, SAME),
    Case("_events", OTEL, FLASK, OFF),
    Case("_limits", OTEL, FLASK, OFF),
    Case("_on_ending", OTEL, FLASK, SAME),
    Case("_active_span_processor", OTEL, FLASK, OFF),
    Case("_span_processors", OTEL, FLASK, OFF),
    Case("_lock", OTEL, FLASK, OFF),
    Case("_is_instrumented_by_opentelemetry", OTEL, FLASK, SAME),
    Case("get_stack_sampler", PYINSTRUMENT, FLASK, OFF),
    Case("thread_locals", PYINSTRUMENT, FLASK, OFF),
    Case("IGNORE_OVERHEAD_WARNING", PYINSTRUMENT, FLASK, SAME),
    Case("StackSampler", PYINSTRUMENT, FLASK, OFF),
    Case("_update", PYINSTRUMENT, FLASK, OFF),
    Case("subscribe", PYINSTRUMENT, FLASK, OFF),
    Case("desired_interval", PYINSTRUMENT, FLASK, OFF),
    Case("use_async_context", PYINSTRUMENT, FLASK, OFF),
    Case("unsubscribe", PYINSTRUMENT, FLASK, OFF),
    Case("subscribers", PYINSTRUMENT, FLASK, OFF),
    Case("target", SAMPLER, FLASK, OFF),
    Case("current_sampling_interval", PYINSTRUMENT, FLASK, OFF),
    Case("last_profile_time", PYINSTRUMENT, FLASK, OFF),
    Case("get_frame_info", PYINSTRUMENT, FLASK, OFF),
    Case("bound_to_async_context", PYINSTRUMENT, FLASK, OFF),
    Case("use_timing_thread", PYINSTRUMENT, FLASK, OFF),
    Case("timer_func", PYINSTRUMENT, FLASK, OFF),
    Case("_start_sampling", PYINSTRUMENT, FLASK, SAME),
    Case("_sample", SAMPLER, FLASK, OFF),
    Case("_timer", SAMPLER, FLASK, OFF),
    Case("walltime_coarse_resolution", PYINSTRUMENT, FLASK, OFF),
    Case("setstatprofile", PYINSTRUMENT, FLASK, OFF),
    Case("__jinja_template__", JINJA, FLASK, SAME),
    Case("get_corresponding_lineno", JINJA, FLASK, SAME),
    Case("render_annotated", DJANGO, FLASK, SAME, missing="django.html"),
    Case("origin", DJANGO, FLASK, SAME, missing="django.html"),
    Case("token", DJANGO, FLASK, SAME, missing="django.html"),
    Case("lineno", DJANGO, FLASK, SAME, missing="django.html"),
    Case("span_exporter", OTEL, FLASK, SAME),
    Case("_batch_processor", OTEL, FLASK, SAME),
    Case("_batch_processor", OTEL, LOGS, LESS),
    Case("_exporter", OTEL, FLASK, SAME),
    Case("_exporter", OTEL, LOGS, LESS),
    Case("_multi_log_record_processor", OTEL, LOGS, LESS),
    Case("_log_record_processors", OTEL, LOGS, LESS),
    Case("ReadWriteLogRecord", OTEL, LOGS, SAME),
    Case("LogRecordExportResult", OTEL, LOGS, LESS),
    Case("encode_logs", OTEL, LOGS, SAME),
    Case("_max_request_size", OTEL, FLASK, SAME),
    Case("BoundedList", OTEL, FLASK, SAME),
    Case("_attributes", OTEL, FLASK, SAME),
    Case("_dict", OTEL, FLASK, SAME),
    Case("_context", OTEL, FLASK, SAME),
    Case("_parent", OTEL, FLASK, SAME),
    Case("_instrumentation_scope", OTEL, FLASK, SAME),
    Case("_start_time", OTEL, FLASK, SAME),
    Case("_end_time", OTEL, FLASK, SAME),
    Case("_kind", OTEL, FLASK, SAME),
    Case("_status", OTEL, FLASK, SAME),
    Case("_status_code", OTEL, FLASK, SAME),
    Case("_translate_data", OTEL, SPOOL_GRPC, SAME),
    Case("_client", OTEL, FLASK, SAME),
    Case("_shutdown", OTEL, SPOOL_HTTP, SAME),
    Case("_endpoint", OTEL, SPOOL_HTTP, LESS),
    Case("_endpoint", OTEL, SPOOL_GRPC, LESS),
    Case("_timeout", OTEL, SPOOL_HTTP, SAME),
    Case("_timeout", OTEL, SPOOL_GRPC, SAME),
    Case("_client", OTEL, SPOOL_HTTP, LESS),
    Case("_transport", OTEL, SPOOL_HTTP, LESS),
    Case("_compress", OTEL, SPOOL_HTTP, LESS),
    Case("_headers", OTEL, SPOOL_HTTP, LESS),
    Case("_headers", OTEL, SPOOL_GRPC, LESS),
    Case("_insecure", OTEL, SPOOL_GRPC, LESS),
    Case("_credentials", OTEL, SPOOL_GRPC, LESS),
    Case("_compression", OTEL, SPOOL_GRPC, LESS),
    Case("_channel_options", OTEL, SPOOL_GRPC, SAME),
    Case("run_sync", ANYIO, FASTAPI, LESS),
    Case("SyncToAsync", ASGIREF, FASTAPI, LESS),
    Case("AsyncToSync", ASGIREF, FASTAPI, LESS),
    Case("func", ASGIREF, FASTAPI, LESS),
    Case("awaitable", ASGIREF, FASTAPI, LESS),
    Case("shutdown", UVICORN, FASTAPI, LESS),
    Case("_captured_signals", UVICORN, FASTAPI, SAME),
    Case("force_exit", UVICORN, FASTAPI, SAME),
]

MODULES = [
    ("pyinstrument.stack_sampler", FLASK, OFF),
    ("pyinstrument.low_level.stat_profile", FLASK, OFF),
    ("pyinstrument", FLASK, OFF),
    ("opentelemetry._logs", FLASK, SAME),
    ("opentelemetry.exporter.otlp.proto.common._log_encoder", FLASK, SAME),
]

FUNCTIONS = [
    ("pyinstrument.stack_sampler:get_stack_sampler", OFF),
    ("pyinstrument.stack_sampler:StackSampler.subscribe", OFF),
    ("pyinstrument.stack_sampler:StackSampler.unsubscribe", OFF),
    ("pyinstrument.stack_sampler:StackSampler._sample", OFF),
    ("pyinstrument.low_level.stat_profile:setstatprofile", OFF),
    ("pyinstrument.stack_sampler:build_call_stack", OFF),
    ("pyinstrument.low_level.stat_profile:get_frame_info", OFF),
    ("jinja2:Template.get_corresponding_lineno", SAME),
    ("opentelemetry.sdk.util:BoundedList.append", OFF),
]


IN_ONE_PLACE = (
    "private_names.py",
    "thread_sampler.py",
    "transport/private_names.py",
    "transport/uvicorn_flush.py",
    "hop_patches.py",
)
"""The modules that touch what is private of other libraries, or patch it."""

NOT_OF_THIS_VERSION = {"_export"}
"""Of the HTTP exporter before 1.45: `make test-lowest` runs with it."""

PUBLIC = {
    *("append", "extend", "pop", "popitem", "get", "keys", "items", "add", "copy", "split", "startswith"),
    *(
        "removeprefix",
        "set",
        "lower",
        "start",
        "join",
        "is_alive",
        "sleep",
        "monotonic",
        "debug",
        "warning",
        "modules",
    ),
    *("Thread", "local", "SIGTERM", "opmap", "version_info", "getprofile", "_getframe", "name", "error"),
    *(
        "co_code",
        "co_firstlineno",
        "co_name",
        "f_back",
        "f_code",
        "f_globals",
        "f_lasti",
        "f_lineno",
        "f_locals",
    ),
    *(
        "get_current",
        "add_span_processor",
        "get_tracer",
        "start_span",
        "end",
        "get_empty",
        "events",
        "max_events",
    ),
    *("dropped_events", "dropped", "timestamp", "context", "event_name", "severity_number", "enabled"),
    *(
        "resource",
        "instrumentation_scope",
        "trace_state",
        "FAILURE",
        "SUCCESS",
        "SerializeToString",
        "ByteSize",
        "export",
    ),
    *("insecure_channel", "secure_channel", "request", "reason", "status_code"),
    *("register_post_import_hook", "Server", "Template", "LogRecord"),
    *("begin_hop", "call", "guard", "run", "run_async", "arrived", "saw_ending"),
}
"""Documented names of Python and of libraries, and our own, that the modules above use."""

ELSEWHERE = {
    *(
        "_getframe",
        "_exit",
        "_asdict",
        "_fields",
        "_make",
        "_replace",
        "_SubParsersAction",
        "_thread",
        "_local",
        "_typeshed",
        "_logs",
    ),
    *("_OTHER", "_frame", "_"),
}
"""Python's own with an underscore, a value of semantic conventions, parts of names. `_logs`: see MODULES."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """What a module defines itself: functions, classes, its globals, and the attributes of its objects."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            own.add(node.attr)
    return own


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def foreign_names(tree: ast.Module) -> set[str]:
    """Attributes of anything but `self`, texts that could be such a name, and imports from other packages."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_self(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
            found |= {node.value} if node.value.isidentifier() else set()
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr", "setattr"}:
            found |= {each.value for each in node.args[1:2] if isinstance(each, ast.Constant)}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("otel_pyinstrument"):
            private = [part for part in (node.module or "").split(".") if is_private(part)]
            found |= {*private, *(each.name for each in node.names if private or is_private(each.name))}
    return {name for name in found if not name.startswith("__")}


def test_the_list_of_names_is_complete() -> None:
    # Given what the modules for private names use
    listed = {case.name for case in CASES}
    listed |= {name.rpartition(".")[2] for name, *_ in [*MODULES, *FUNCTIONS]}
    for module in IN_ONE_PLACE:
        tree = ast.parse((PACKAGE / module).read_text("utf-8"))

        # Then each is in the list above, or is said to be public
        missing = foreign_names(tree) - own_names(tree) - listed - PUBLIC - NOT_OF_THIS_VERSION
        assert missing == set(), f"{module}: add a Case for these, or say that they are public"


def test_nothing_private_is_used_elsewhere() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix() in IN_ONE_PLACE:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        private = set(filter(is_private, foreign_names(tree) - own_names(tree))) - ELSEWHERE
        assert private == set(), f"{path}: this belongs into a module for private names"


def test_pyinstrument_is_used_in_one_place() -> None:
    # All of it but `Profiler` is undocumented.
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and any(name.split(".")[0] == "pyinstrument" for name in imported_modules(node))
    }
    assert users == {"private_names.py", "thread_sampler.py"}


def imported_modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def test_no_class_of_ours_hides_a_private_name_of_its_base() -> None:
    # Given our classes that have a class of another library as a base
    documented = {"_instrument", "_uninstrument", "_on_ending", "_abc_impl"}
    hidden: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if path.name.startswith("__") or "command" in path.parts:
            continue
        own = own_names(ast.parse(path.read_text("utf-8")))
        for ours in vars(import_module(name)).values():
            if isinstance(ours, type) and ours.__module__ == name:
                bases = [base for base in ours.__mro__ if base.__module__.split(".")[0] in {"opentelemetry"}]
                hidden |= {each for base in bases for each in vars(base) if is_private(each) and each in own}

    # Then those that we hide or use on purpose are in the list
    assert {name for name in hidden if not name.startswith("__")} - documented <= {
        case.name for case in CASES
    }


def run(case: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """What came of it; the process must end well, and its stderr must be empty."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, str(APPLICATION), json.dumps({**case, "directory": str(tmp_path / "spool")})]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What each scenario gives with the libraries as they are."""
    return {
        scenario: run({"scenario": scenario}, tmp_path_factory.mktemp("undisturbed")) for scenario in PROFILES
    }


def check(found: dict[str, object], usual: dict[str, object], effect: str) -> None:
    assert found["answers"] == usual["answers"]
    assert found["spans"] == usual["spans"]
    assert len(found["warnings"]) == (0 if effect == SAME else 1), found["warnings"]
    assert found["profiles"] + found["logs"] == (0 if effect == OFF else usual["profiles"] + usual["logs"])
    assert found["hooks"] == []


def test_the_libraries_as_they_are_cause_no_warning(undisturbed) -> None:
    for scenario, usual in undisturbed.items():
        assert usual["warnings"] == []
        assert usual["profiles"] + usual["logs"] == PROFILES[scenario]
        assert usual["flushed"] == (scenario == FASTAPI)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_name_is_gone(case: Case, undisturbed, tmp_path: Path) -> None:
    # Given a library whose next version calls something else than we know it
    found = run({"scenario": case.scenario, "rename": case.name, "in": case.where}, tmp_path)

    # Then this library had the name, and the application answers and traces as always
    assert found["renamed"] > 0, f"{case.where} has no {case.name}: the list is out of date"
    check(found, undisturbed[case.scenario], case.effect)
    if case.missing:
        assert set(undisturbed[case.scenario]["callers"]) - set(found["callers"]) == {case.missing}


@pytest.mark.parametrize(("module", "scenario", "effect"), MODULES)
def test_a_module_is_gone(module: str, scenario: str, effect: str, undisturbed, tmp_path: Path) -> None:
    check(run({"scenario": scenario, "without": [module]}, tmp_path), undisturbed[scenario], effect)


@pytest.mark.parametrize("how", ["raises", "returns None", "takes other arguments"])
@pytest.mark.parametrize(("function", "effect"), FUNCTIONS)
def test_a_function_has_changed_its_ways(function, effect, how, undisturbed, tmp_path: Path) -> None:
    check(run({"scenario": FLASK, "misbehave": function, "how": how}, tmp_path), undisturbed[FLASK], effect)
