"""From what the sampler calls a function to what a call tree shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from types import CodeType

from otel_pyinstrument.call_tree import Frame
from otel_pyinstrument.guard import came_from_signal_handler

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_SEPARATOR = "\0"
_ATTRIBUTE = "\1"
_CLASS_ATTRIBUTE = "c"
_CLASS = _ATTRIBUTE + _CLASS_ATTRIBUTE
_BUILT_IN = "<built-in>"


def identifier_of(raw: str) -> str:
    """What stays the same of a sampled entry: name, file, first line and class, without the current line.

    The sampler writes `name NUL file NUL first line`, then attributes, each after \\x01 with a letter.
    """
    head, _, rest = raw.partition(_ATTRIBUTE)
    if rest[:1] == _CLASS_ATTRIBUTE:  # where the sampler writes it
        return head + _ATTRIBUTE + rest.partition(_ATTRIBUTE)[0]
    if _CLASS not in rest:
        return head
    return head + _CLASS + rest.partition(_CLASS)[2].partition(_ATTRIBUTE)[0]


def identifier_of_code(code: CodeType) -> str:
    """The identifier of a function whose class is not known."""
    return f"{code.co_name}{_SEPARATOR}{code.co_filename}{_SEPARATOR}{code.co_firstlineno}"


def current_describer() -> Callable[[str], Frame]:
    """A function from identifier to frame that sees `sys.path` as it is now. Any thread."""
    return _describer(current_place())


def current_place() -> Callable[[str], tuple[str, bool]]:
    """A function from a code object's file name to its short path and whether it is the user's own code."""
    try:
        directory = os.getcwd()
    except OSError as error:  # the working directory was removed
        if came_from_signal_handler(error):
            raise
        directory = ""
    return _place_function(tuple(sys.path), directory)


@lru_cache(maxsize=4)
def _describer(place: Callable[[str], tuple[str, bool]]) -> Callable[[str], Frame]:
    @lru_cache(maxsize=8192)
    def describe(identifier: str) -> Frame:
        head, _, attribute = identifier.partition(_ATTRIBUTE)
        class_name = attribute.removeprefix(_CLASS_ATTRIBUTE)
        name, _, rest = head.partition(_SEPARATOR)
        file, _, line = rest.rpartition(_SEPARATOR)
        function = f"{class_name}.{name}" if class_name else name
        if not file or file == _BUILT_IN:
            return Frame(function, "", 0, False)
        short, own_code = place(file)
        return Frame(function, short, int(line) if line.isdecimal() else 0, own_code)

    return describe


@lru_cache(maxsize=4)
def _place_function(search_path: tuple[str, ...], directory: str) -> Callable[[str], tuple[str, bool]]:
    """A cached function from a code object's file name to (short path, is it the user's own code)."""
    roots = sorted(
        {_as_folder(os.path.join(directory, entry)) for entry in search_path}, key=len, reverse=True
    )
    libraries = _library_folders()

    @lru_cache(maxsize=8192)
    def place(file: str) -> tuple[str, bool]:
        if file.startswith("<"):
            return file, False
        path = _as_path(os.path.join(directory, file))
        folders = path.split("/")
        own_code = (
            "site-packages" not in folders
            and "dist-packages" not in folders
            and not path.startswith(libraries)
        )
        root = next((root for root in roots if path.startswith(root)), "")
        return path[len(root) :], own_code

    return place


@cache
def _library_folders() -> tuple[str, ...]:
    """Folders whose code is not the user's: the standard library, installed packages, the interpreter.

    What `sysconfig` knows lies in these or is named like packages, and asking it loads all that Python was
    built with.
    """
    folders = {os.path.dirname(os.__file__), _PACKAGE}
    # Not the whole prefix: with /usr or /usr/local it would swallow applications that live below it.
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
        for name in {"bin", "Scripts", "lib", "lib64", "Lib", sys.platlibdir}:
            folders.add(os.path.join(prefix, name))
    return tuple(sorted(_as_folder(folder) for folder in folders))


def _as_path(path: str) -> str:
    return os.path.normpath(path).replace(os.sep, "/")


def _as_folder(path: str) -> str:
    return _as_path(path).rstrip("/") + "/"
