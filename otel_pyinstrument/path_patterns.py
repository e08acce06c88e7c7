"""Which requests a list of patterns names: `/health`, `/api/*`, `GET /orders/*`, `OPTIONS`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_METHOD = r"[A-Z]+"
MAX_PATTERNS = 200
MAX_CHARACTERS = 500


class BadPattern(ValueError):
    """The message says what is wrong with a pattern."""


class PathPatterns:
    """A request matches when one pattern does. `*` stands for any characters, `/` too; the rest is literal.

    No regular expressions: their time on a hostile pattern or path has no bound.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises:
        BadPattern: too many, too long, or not a method and a path.
        """
        self._patterns = [_parsed(pattern) for pattern in patterns]
        if len(self._patterns) > MAX_PATTERNS:
            raise BadPattern(f"more than {MAX_PATTERNS} patterns")

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, method: str, path: str) -> bool:
        return any((not only or only == method) and _match(parts, path) for only, parts in self._patterns)


def _parsed(pattern: str) -> tuple[str, list[str]]:
    if len(pattern) > MAX_CHARACTERS:
        raise BadPattern(f"a pattern is longer than {MAX_CHARACTERS} characters")
    method, _, path = pattern.strip().rpartition(" ")
    if not method and re.fullmatch(_METHOD, path):
        method, path = path, "*"
    method = method.strip()
    if (method and not re.fullmatch(_METHOD, method)) or not path.startswith(("/", "*")):
        raise BadPattern(f"{pattern[:80]!r} is not like /orders/*, GET /orders/* or OPTIONS")
    return method, path.split("*")


def _match(parts: list[str], path: str) -> bool:
    first, *middle = parts
    if not middle:
        return path == first
    last = middle.pop()
    if len(path) < len(first) + len(last) or not path.startswith(first) or not path.endswith(last):
        return False
    position, end = len(first), len(path) - len(last)
    for part in middle:
        position = path.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True
