"""How the value of a setting is read: each reader takes what code, a variable or a file gives, or raises."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from otel_pyinstrument.endpoint_rates import read_endpoint_rate
from otel_pyinstrument.path_patterns import MAX_CHARACTERS, MAX_PATTERNS, PathPatterns

_NOTHING = "NOTHING"
"""A pattern for a method that no request has."""


class PartlyBad(ValueError):
    """The message says what was expected instead of `bad`, and what holds: `usable`."""

    def __init__(self, message: str, *, bad: str, usable: tuple[str, ...]) -> None:
        super().__init__(message)
        self.bad = bad
        self.usable = usable


def boolean(given: Any) -> bool:
    word = str(given).strip().lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise ValueError("expected true or false")


def number(lowest: float, highest: float) -> Callable[[Any], float]:
    def read(given: Any) -> float:
        if isinstance(given, bool):  # as YAML reads `yes`; float() makes 1 of it
            raise ValueError("expected a number")
        try:
            value = float(given)
        except (TypeError, ValueError):
            raise ValueError("expected a number") from None
        if math.isnan(value) or not lowest <= value <= highest:
            raise ValueError(f"expected a number from {lowest:g} to {highest:g}")
        return value

    return read


def whole_number(lowest: int, highest: int) -> Callable[[Any], int]:
    def read(given: Any) -> int:
        try:
            value = int(given)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("expected a whole number") from None
        # int() makes 1 of True, and 2 of 2.7.
        if isinstance(given, bool) or (not isinstance(given, str) and value != given):
            raise ValueError("expected a whole number")
        if not lowest <= value <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return value

    return read


def names(given: Any) -> tuple[str, ...]:
    return _entries(given, str.lower, "expected names separated by commas, or a list of them")


def one_of(*known: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        word = str(given).strip().lower()
        if word not in known:
            raise ValueError(f"expected {' or '.join(known)}")
        return word

    return read


def path(given: Any) -> str:
    return os.path.abspath(os.path.expanduser(_file_name(given)))


def configuration_file(given: Any) -> str:
    return text(_file_name(given))


def _file_name(given: Any) -> str:
    name: object = os.fspath(cast("os.PathLike[Any]", given)) if isinstance(given, os.PathLike) else given
    if not isinstance(name, str):
        raise ValueError("expected a path")
    return name.strip()


def patterns(given: Any) -> tuple[str, ...]:
    expected = (
        "expected patterns like /orders/*, GET /orders/* or OPTIONS, separated by commas or in a list, "
        f"at most {MAX_PATTERNS} of {MAX_CHARACTERS} characters each"
    )
    return _entries(given, _pattern, expected, most=MAX_PATTERNS)


def inclusive_patterns(given: Any) -> tuple[str, ...]:
    """As `patterns`, but one that matches nothing where none is good: without any, everything would match."""
    try:
        return patterns(given)
    except PartlyBad:
        raise
    except ValueError as error:
        raise PartlyBad(
            f"{error}; no request is profiled until one is right", bad=str(given), usable=(_NOTHING,)
        ) from None


def endpoint_rates(given: Any) -> tuple[str, ...]:
    if isinstance(given, Mapping):
        rates = cast("Mapping[object, object]", given)
        given = [f"{endpoint}={rate}" for endpoint, rate in rates.items()]
    expected = "expected entries like GET /orders/{id}=0.5 or /health=0, without *, with rates from 0 to 1"
    return _entries(given, _endpoint_rate, expected)


def _entries(
    given: Any, read: Callable[[str], str], expected: str, *, most: int = sys.maxsize
) -> tuple[str, ...]:
    """What `read` makes of the entries of a text or a list; it raises ValueError for a bad one.

    Raises:
        PartlyBad: some are bad, or more than `most`.
        ValueError: all are bad, or it is no list.
    """
    entries = given.split(",") if isinstance(given, str) else given
    if isinstance(entries, (bytes, Mapping)) or not isinstance(entries, Iterable):
        raise ValueError(expected)
    usable: list[str] = []
    bad: list[str] = []
    for entry in cast("Iterable[object]", entries):
        if entry is None or (isinstance(entry, str) and not entry.strip()):
            continue
        try:
            if not isinstance(entry, str) or len(usable) == most:
                raise ValueError
            usable.append(read(entry.strip()))
        except ValueError:
            bad.append(str(entry).strip())
    if bad and not usable:
        raise ValueError(expected)
    if bad:
        raise PartlyBad(f"{expected}; the others hold", bad=", ".join(bad), usable=tuple(usable))
    return tuple(usable)


def _pattern(entry: str) -> str:
    PathPatterns([entry])
    return entry


def _endpoint_rate(entry: str) -> str:
    read_endpoint_rate(entry)
    return entry


def text(given: Any) -> str:
    # In code an address or a key may be an object that is written as one.
    if isinstance(given, (bool, float, bytes, Iterable)) and not isinstance(given, str):
        raise ValueError("expected text")
    stripped = str(given).strip()
    if not stripped.isprintable():
        raise ValueError("expected text without control characters")
    return stripped


def web_address(given: Any) -> str:
    address = text(given)
    parts = urlsplit(address)
    # Reading the port raises ValueError when it is none.
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.port == 0:
        raise ValueError("expected an address like http://127.0.0.1:8000")
    return address.rstrip("/")
