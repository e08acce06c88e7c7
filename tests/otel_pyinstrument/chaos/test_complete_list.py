"""Every private name that we rely on is in the list of what is taken away from the application."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import otel_pyinstrument
from tests.otel_pyinstrument.chaos import cases

PACKAGE = Path(otel_pyinstrument.__file__).parent

NAMES = [
    *cases.NAMES_OF_OPENTELEMETRY,
    *cases.NAMES_OF_EXPORTERS,
    *cases.NAMES_OF_PYINSTRUMENT,
    *cases.NAMES_OF_OTHERS,
]
LISTED = {case.name for case in NAMES}

IN_ONE_PLACE = (
    "private_names.py",
    "self_test.py",
    "thread_sampler.py",
    "transport/private_names.py",
    "transport/uvicorn_flush.py",
    "hop_patches.py",
    "facts/template_lines.py",
)
"""The modules that touch what is private of other libraries, or patch it."""

NOT_OF_THIS_VERSION = {"_export"}
"""Of the HTTP exporter before 1.45: `make test-lowest` runs with it."""

PUBLIC = {
    *("append", "extend", "pop", "popitem", "get", "keys", "items", "add", "copy", "split", "startswith"),
    "Export",  # the method of OTLP's services
    *("thread_time", "perf_counter"),
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
"""Python's own with an underscore, a value of semantic conventions, parts of names. `_logs` is listed."""


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
    others = [*cases.MODULES_OF_PYINSTRUMENT, *cases.MODULES_OF_OPENTELEMETRY, *cases.FUNCTIONS]
    listed = LISTED | {name.rpartition(".")[2] for name, *_ in others}
    for module in IN_ONE_PLACE:
        tree = ast.parse((PACKAGE / module).read_text("utf-8"))

        # Then each is in the list, or is said to be public
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
    assert {name for name in hidden if not name.startswith("__")} - documented <= LISTED
