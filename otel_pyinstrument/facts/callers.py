"""The line of the application that caused what is running now."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, cast

from otel_pyinstrument.facts.template_lines import django_template_line, jinja_template_line
from otel_pyinstrument.frames import current_place

_MAX_FRAMES = 400
_MAX_FILES = 8_192
_MAX_GREENLETS = 4

_JINJA = "__jinja_template__"
_INNER = "<locals>."
_KNOWS_CLASSES = sys.version_info >= (3, 11)
_LIBRARY, _OWN_CODE, _DJANGO_TEMPLATES = 0, 1, 2


class Caller(NamedTuple):
    """A line of the application. `file` is the path as Python knows it."""

    function: str
    file: str
    line: int


def nearest_caller() -> Caller | None:
    """The innermost line of the user's own code on this thread's stack, a template's lines included.

    None when there is none: in a worker thread that runs only library code. Holds no frame afterwards.
    """
    found = _search(sys._getframe())  # pyright: ignore[reportPrivateUsage] - documented, CPython
    if found is None and (greenlet := sys.modules.get("greenlet")) is not None:
        return _search_parents(cast("Any", greenlet).getcurrent)
    return found


def _search_parents(current: Callable[[], Any]) -> Caller | None:
    """SQLAlchemy's asyncio engine runs its work in a greenlet; who awaits it is on the parent's stack."""
    greenlet = current().parent
    for _ in range(_MAX_GREENLETS):
        if greenlet is None:
            return None
        if found := _search(greenlet.gr_frame):
            return found
        greenlet = greenlet.parent
    return None


def _search(frame: FrameType | None) -> Caller | None:
    # Under the profile hook every call costs twice, so the loop makes none for a file it has met.
    left = _MAX_FRAMES
    while frame is not None and left:
        file = frame.f_code.co_filename
        try:
            kind = _kinds[file]
        except KeyError:
            kind = _remember(file)
        if kind and (found := _caller_at(frame, kind)) is not None:
            return found
        frame = frame.f_back
        left -= 1
    return None


_kinds: dict[str, int] = {}


def _remember(file: str) -> int:
    if len(_kinds) >= _MAX_FILES:
        _kinds.clear()
    kind = _LIBRARY
    if file.replace("\\", "/").endswith("/django/template/base.py"):
        kind = _DJANGO_TEMPLATES
    elif current_place()(file)[1]:
        kind = _OWN_CODE
    _kinds[file] = kind
    return kind


def _caller_at(frame: FrameType, kind: int) -> Caller | None:
    if kind == _DJANGO_TEMPLATES:
        # Django interprets templates: the node that is being rendered is an argument.
        found = django_template_line(frame)
        return Caller(*found) if found and current_place()(found[1])[1] else None
    code = frame.f_code
    # Jinja compiles to Python under the template's file name; the frame's line is one of the Python.
    line = jinja_template_line(frame) if _JINJA in frame.f_globals else frame.f_lineno
    # From Python 3.11 on with the class, as in the call tree; an inner function without what is around it.
    function: str = code.co_qualname if _KNOWS_CLASSES else code.co_name
    if _INNER in function:
        function = function.rpartition(_INNER)[2]
    return Caller(function, code.co_filename, line or frame.f_lineno or code.co_firstlineno)
