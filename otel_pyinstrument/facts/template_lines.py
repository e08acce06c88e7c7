"""Where in a template a frame of its engine is, from what Jinja and Django do not promise."""

from __future__ import annotations

from types import FrameType

from otel_pyinstrument.guard import came_from_signal_handler


def jinja_template_line(frame: FrameType) -> int | None:
    """The template's line that a frame of Jinja's compiled Python is at; None for any other frame."""
    template = frame.f_globals.get("__jinja_template__")
    find = getattr(template, "get_corresponding_lineno", None)
    try:
        line: object = find(frame.f_lineno or frame.f_code.co_firstlineno) if callable(find) else None
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        return None  # a line less, not a profile less
    return line if isinstance(line, int) else None


def django_template_line(frame: FrameType) -> tuple[str, str, int] | None:
    """Kind of node, file and line of the template node that a frame of Django's `base.py` renders."""
    if frame.f_code.co_name != "render_annotated":
        return None
    node = frame.f_locals.get("self")
    file = getattr(getattr(node, "origin", None), "name", None)
    line = getattr(getattr(node, "token", None), "lineno", None)
    if not isinstance(file, str) or not isinstance(line, int):
        return None
    return type(node).__name__, file, line
