"""Which line of the application is named for what runs now."""

from __future__ import annotations

import inspect
import json
import sys
import sysconfig
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from otel_pyinstrument.facts import callers
from otel_pyinstrument.facts.callers import Caller, nearest_caller


class Orders:
    def load(self) -> Caller | None:
        return nearest_caller()


def library(source: str, name: str = "library") -> Callable[..., object]:
    """A function as if it were installed."""
    namespace: dict = {}
    exec(compile(source, f"{sysconfig.get_path('purelib')}/{name}/base.py", "exec"), namespace)
    return namespace["call"]


def test_the_innermost_own_line_is_named_with_its_function() -> None:
    caller = Orders().load()

    assert caller.function in {"Orders.load", "load"}  # without the class before Python 3.11
    assert caller.file == __file__
    assert caller.line == Orders.load.__code__.co_firstlineno + 1


def test_frames_of_libraries_and_of_the_standard_library_are_passed_over() -> None:
    # Given own code that is called by a library, and calls two
    call = library("def call(function):\n    return sorted([1], key=lambda _: function())")
    found = []

    def view() -> None:
        json.loads("{}", object_hook=lambda _: call(lambda: found.append(library_calls())))

    def library_calls() -> Caller | None:
        return library("def call(f):\n    return f()")(nearest_caller)

    call(view)

    assert found[0].function == "library_calls"


def test_without_own_code_nobody_is_named() -> None:
    # Given a thread that runs only what is installed
    call = library("def call(function, found):\n    found.append(function())")
    found: list = []
    thread = threading.Thread(target=call, args=(nearest_caller, found))
    thread.start()
    thread.join()

    assert found == [None]


def test_work_in_a_greenlet_is_named_after_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a stack of library code only, as SQLAlchemy's asyncio engine has it, below two greenlets
    def waiting() -> inspect.FrameInfo:
        return inspect.currentframe()

    outer = SimpleNamespace(gr_frame=waiting(), parent=None)
    inner = SimpleNamespace(gr_frame=None, parent=outer)
    current = SimpleNamespace(parent=inner)
    monkeypatch.setitem(sys.modules, "greenlet", SimpleNamespace(getcurrent=lambda: current))
    call = library("def call(function, found):\n    found.append(function())")
    found: list = []

    thread = threading.Thread(target=call, args=(nearest_caller, found))
    thread.start()
    thread.join()

    assert found[0].function == "waiting"


def test_a_line_of_a_jinja_template_is_the_templates_own(tmp_path) -> None:
    # Given a template whose third line calls into a library, as a lazy attribute of an ORM would
    import jinja2

    (tmp_path / "orders.html").write_text("<ul>\n{% for o in [1] %}\n  <li>{{ items() }}\n{% endfor %}")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path), autoescape=True)
    lazy = library(
        "class Lazy:\n    def __init__(self, function):\n        self.function = function\n"
        "    def __call__(self):\n        self.found = self.function()\n"
        "def call(function):\n    return Lazy(function)"
    )(nearest_caller)

    environment.get_template("orders.html").render(items=lazy)

    assert lazy.found[1:] == (str(tmp_path / "orders.html"), 3)


def test_a_line_of_a_django_template_is_that_of_the_rendered_node(tmp_path) -> None:
    # Given what Django's template engine has on the stack while it renders a node
    call = library(
        "class Node:\n    def render_annotated(self, f):\n        return f()\n"
        "def call(node, f):\n    return Node.render_annotated(node, f)",
        "django/template",
    )
    node = SimpleNamespace(
        origin=SimpleNamespace(name=str(tmp_path / "orders.html")), token=SimpleNamespace(lineno=12)
    )

    assert call(node, nearest_caller)[1:] == (str(tmp_path / "orders.html"), 12)
    # And a node without a place is passed over
    assert call(SimpleNamespace(), nearest_caller).file == __file__


def test_a_template_engine_that_changed_costs_the_line_and_nothing_else() -> None:
    # Given what looks like a compiled template, of a Jinja without the method we know
    namespace = {"__jinja_template__": object(), "ask": nearest_caller}
    exec(compile("\n\ndef root():\n    return ask()", __file__, "exec"), namespace)

    assert namespace["root"]() == Caller("root", __file__, 4)


def test_a_very_deep_stack_is_not_walked_to_its_end() -> None:
    call = library("def call(f, n=500):\n    return f() if n == 0 else call(f, n - 1)")

    assert call(nearest_caller) is None


def test_what_is_known_of_files_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_MAX_FILES", 4)
    for number in range(20):
        library("def call(f):\n    return f()", f"library{number}")(nearest_caller)

    assert len(callers._kinds) <= 4


def test_no_frame_is_kept_alive() -> None:
    def leave() -> str:
        local = type("Local", (), {})()
        nearest_caller()
        return repr(inspect.currentframe().f_locals["local"] is local)

    assert leave() == "True"
    assert all(not inspect.isframe(value) for value in vars(callers).values())
