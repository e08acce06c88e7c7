"""Finds the user's application: `MODULE:APP`, or `MODULE:FACTORY()`."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import Any, Literal, NamedTuple

Interface = Literal["wsgi", "asgi"]


class ApplicationNotFound(Exception):
    """The message says what could not be loaded, and why."""


class Application(NamedTuple):
    """`app` is what a server would call."""

    app: Any
    interface: Interface


def load_application(target: str, *, directory: str, interface: Interface | None = None) -> Application:
    """Import the application with `directory` first on the path.

    `target` is `module:attribute`, dots in the attribute allowed; `()` behind it calls a factory.

    Raises:
        ApplicationNotFound: there is none, or its module cannot be imported.
    """
    module_name, colon, attribute = target.partition(":")
    if not module_name or not colon or not attribute:
        raise ApplicationNotFound(f"{target}: expected MODULE:APP, for example my_shop.app:app")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    is_factory = attribute.endswith("()")
    try:
        found: Any = import_module(module_name)
        for name in attribute.removesuffix("()").split("."):
            found = getattr(found, name)
        if is_factory:
            found = found()
    except Exception as error:
        # Whatever the user's own code raises while it is loaded.
        raise ApplicationNotFound(
            f"{target} in {directory}: {type(error).__name__}: {error}. Correct it, or name its directory "
            "with --app-dir"
        ) from error
    if not callable(found):
        raise ApplicationNotFound(f"{target} is {type(found).__name__}, which cannot be called")
    return Application(found, interface or detected_interface(found))


def detected_interface(app: Any) -> Interface:
    """ASGI when calling it makes a coroutine, else WSGI."""
    called = app if inspect.isroutine(app) or inspect.isclass(app) else type(app).__call__
    return "asgi" if inspect.iscoroutinefunction(called) else "wsgi"
