"""How the value of a setting is read: each reader takes what code, a variable or a file gives, or raises."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from otel_pyinstrument.endpoint_rates import read_endpoint_rate
from otel_pyinstrument.path_patterns import PathPatterns


class PartlyBad(ValueError):
    """The message says what was expected instead of `bad`; `usable` is the rest of the value."""

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
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):  # pyright: ignore[reportUnknownVariableType] - anything
        raise ValueError("expected names separated by commas")
    return tuple(name for part in cast("list[str]", parts) if (name := part.strip().lower()))


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
    items = given.split(",") if isinstance(given, str) else given
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):  # pyright: ignore[reportUnknownVariableType] - anything
        raise ValueError("expected patterns separated by commas, or a list of them")
    usable = tuple(item.strip() for item in cast("list[str]", items) if item.strip())
    try:
        PathPatterns(usable)
    except ValueError as error:
        raise ValueError(f"expected patterns like /orders/* or GET /orders/*, but {error}") from None
    return usable


def endpoint_rates(given: Any) -> tuple[str, ...]:
    expected = "expected entries like GET /orders/{id}=0.5 or /health=0, without *, with rates from 0 to 1"
    if isinstance(given, Mapping):
        rates = cast("Mapping[object, object]", given)
        entries = [f"{endpoint}={rate}" for endpoint, rate in rates.items()]
    elif isinstance(given, (str, list, tuple)):
        entries = given.split(",") if isinstance(given, str) else cast("list[object]", given)
    else:
        raise ValueError(expected)
    usable: list[str] = []
    bad: list[str] = []
    for entry in (str(each).strip() for each in entries):
        try:
            if entry:
                read_endpoint_rate(entry)
                usable.append(entry)
        except ValueError:
            bad.append(entry)
    if bad:
        raise PartlyBad(expected, bad=", ".join(bad), usable=tuple(usable))
    return tuple(usable)


def text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError("expected text")
    stripped = given.strip()
    if not stripped.isprintable():
        raise ValueError("expected text without control characters")
    return stripped


def key(given: Any) -> str:
    # A file gives one of digits as a number.
    return text(str(given) if type(given) is int else given)


def web_address(given: Any) -> str:
    address = text(given)
    parts = urlsplit(address)
    # Reading the port raises ValueError when it is none.
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.port == 0:
        raise ValueError("expected an address like http://127.0.0.1:8000")
    return address.rstrip("/")
