"""SQL as it may be shown and grouped: without values. Used in the application and by the platform.

Standard library only.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

CACHE_SYSTEMS = frozenset({"redis", "valkey", "memcached"})
"""Databases that requests use as caches; they count as cache, not as database."""

_MAX_STATEMENT_CHARACTERS = 4_000

# What follows a sign of an identifier is part of it: table2, $1 and :name are no numbers.
# PostgreSQL: E'...' takes backslashes, and $tag$...$tag$ anything up to the same tag.
_STANDARD_TEXT = (
    r"(?<!\w)e'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)|'(?:[^']|'')*(?:'|\Z)"
    r"|\$(?P<tag>(?:[a-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)"
)
_BACKSLASH_TEXT = r"""'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)|"(?:[^"\\]|\\.|"")*(?:"|\\?\Z)"""
_NUMBER = r"(?<![\w$:.@])[-+]?(?:0x[0-9a-f]+|(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?)\b"
_PLACEHOLDER = r"%\(\w{1,100}\)s|%s|(?<![:\w]):[a-z_]\w*|\$\d+|@p\d+"
_STANDARD_NAME = r"\"[^\"]*(?:\"|\Z)"
_BACKSLASH_NAME = r"`[^`]*(?:`|\Z)"
_COMMENT = r"/\*.*?(?:\*/|\Z)|--[^\n]*"
_BACKSLASH_COMMENT = rf"{_COMMENT}|#[^\n]*"
_FLAGS = re.IGNORECASE | re.DOTALL


@cache
def _tokens(*, backslash_escapes: bool) -> re.Pattern[str]:
    """Finds comments, quoted names and values. The alternatives exclude each other: linear time.

    Compiling takes a millisecond, and few applications speak both dialects.
    """
    name, text, comment = _STANDARD_NAME, _STANDARD_TEXT, _COMMENT
    if backslash_escapes:
        name, text, comment = _BACKSLASH_NAME, _BACKSLASH_TEXT, _BACKSLASH_COMMENT
    return re.compile(f"(?P<comment>{comment})|(?P<name>{name})|{text}|{_PLACEHOLDER}|{_NUMBER}", _FLAGS)


_tokens(backslash_escapes=False)  # now, and not in the first profiled request

_LIST_OF_VALUES = re.compile(r"\(\s*\?(?:\s*,\s*\?)*\s*\)(?:\s*,\s*\(\s*\?(?:\s*,\s*\?)*\s*\))*")
_FIRST_WORD = re.compile(r"\W*([A-Za-z]{1,20})\b")

_BACKSLASH_SYSTEMS = frozenset({"mysql", "mariadb", "bigquery", "clickhouse", "spanner"})
# fmt: off
_SQL_VERBS = frozenset({
    "ALTER", "ANALYZE", "BEGIN", "CALL", "COMMIT", "CREATE", "DELETE", "DROP", "EXEC", "EXECUTE", "EXPLAIN",
    "INSERT", "MERGE", "PRAGMA", "RELEASE", "REPLACE", "ROLLBACK", "SAVEPOINT", "SELECT", "SET", "SHOW",
    "TRUNCATE", "UPDATE", "UPSERT", "VACUUM", "WITH",
})
# fmt: on


@lru_cache(maxsize=1_024)
def shown_sql(statement: str, system: str) -> str:
    """The normalised statement, "" when it is no SQL. The many queries of an N+1 page are one statement.

    `system` is the database product in lower case, which decides the dialect.
    """
    if verb_of(statement) not in _SQL_VERBS:
        return ""
    return normalised(statement, backslash_escapes=system in _BACKSLASH_SYSTEMS)


def normalised(statement: str, *, backslash_escapes: bool = False) -> str:
    """SQL with values, placeholders and value lists as `?`, without comments, on one line.

    `backslash_escapes` is for dialects in which a backslash escapes a quote and "..." is a text.
    """
    values_replaced = _tokens(backslash_escapes=backslash_escapes).sub(
        lambda match: match["name"] or (" " if match["comment"] else "?"),
        statement[:_MAX_STATEMENT_CHARACTERS],
    )
    return " ".join(_LIST_OF_VALUES.sub("(?)", values_replaced).split())


def verb_of(statement: str) -> str:
    """The first word in upper case, comments left out."""
    match = _FIRST_WORD.match(re.sub(_COMMENT, " ", statement[:_MAX_STATEMENT_CHARACTERS], flags=_FLAGS))
    return match[1].upper() if match else ""
