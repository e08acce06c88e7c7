"""Database queries of a request, grouped by statement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from profile_store.model import Attributes, ChildSpan, RecordDetail
from profile_store.request_facts.attribute_access import integer, text

SLOW_QUERY_SECONDS = 0.1

CACHE_SYSTEMS = frozenset({"redis", "valkey", "memcached"})
"""Databases that requests use as caches; they count as cache, not as database."""

_MAX_STATEMENT_CHARACTERS = 4_000

# What follows a sign of an identifier is part of it: table2, $1 and :name are no numbers.
_STANDARD_TEXT = r"'(?:[^']|'')*(?:'|\Z)"
_BACKSLASH_TEXT = r"""'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)|"(?:[^"\\]|\\.|"")*(?:"|\\?\Z)"""
_NUMBER = r"(?<![\w$:.@])[-+]?(?:0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[-+]?\d+)?)\b"
_PLACEHOLDER = r"%\(\w{1,100}\)s|%s|(?<![:\w]):[a-z_]\w*|\$\d+|@p\d+"
_STANDARD_NAME = r"\"[^\"]*(?:\"|\Z)"
_BACKSLASH_NAME = r"`[^`]*(?:`|\Z)"
_COMMENT = r"/\*.*?(?:\*/|\Z)|--[^\n]*"
_FLAGS = re.IGNORECASE | re.DOTALL


def _tokens(name: str, text: str) -> re.Pattern[str]:
    """Finds comments, quoted names and values. The alternatives exclude each other: linear time."""
    return re.compile(f"(?P<comment>{_COMMENT})|(?P<name>{name})|{text}|{_PLACEHOLDER}|{_NUMBER}", _FLAGS)


_STANDARD_TOKENS = _tokens(_STANDARD_NAME, _STANDARD_TEXT)
_BACKSLASH_TOKENS = _tokens(_BACKSLASH_NAME, _BACKSLASH_TEXT)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseQuery:
    """All executions of one statement. `duration` is their sum in seconds; `caller` is the first one's."""

    query: str
    query_type: str
    count: int
    duration: float
    max_duration: float
    rows_affected: int | None
    failed_count: int
    system: str
    database: str
    caller: str


def database_queries(detail: RecordDetail) -> list[DatabaseQuery]:
    """Queries grouped by normalised statement, longest total first."""
    groups: dict[tuple[str, str, str], list[ChildSpan]] = {}
    for span in database_spans(detail):
        system = system_of(span.attributes)
        statement = statement_of(span)
        database = text(span.attributes, "db.namespace", "db.name")
        groups.setdefault((statement, system, database), []).append(span)
    queries = [_query(key, spans) for key, spans in groups.items()]
    return sorted(queries, key=lambda query: (-query.duration, query.query))


def database_spans(detail: RecordDetail) -> Iterator[ChildSpan]:
    """Child spans that are calls of a database which is no cache."""
    for span in detail.child_spans:
        if (system := system_of(span.attributes)) and system not in CACHE_SYSTEMS:
            yield span


def system_of(attributes: Attributes) -> str:
    """The database product, "" for a span that is no database call."""
    return text(attributes, "db.system.name", "db.system").lower()


def statement_of(span: ChildSpan) -> str:
    """The statement with `?` for every value, so that nobody's data is shown; else operation and table."""
    attributes = span.attributes
    statement = text(attributes, "db.query.text", "db.statement")
    if sql := _shown_sql(statement, system_of(attributes) in _BACKSLASH_SYSTEMS):
        return sql
    # Other languages mix names and values in ways of their own, so only what is known to be a name is shown.
    if summary := text(attributes, "db.query.summary"):
        return summary
    operation = text(attributes, "db.operation.name", "db.operation") or span.name
    collection = text(attributes, "db.collection.name", "db.mongodb.collection", "db.sql.table")
    return f"{operation} {collection}".strip() if collection not in operation else operation


@lru_cache(maxsize=256)
def _shown_sql(statement: str, backslash_escapes: bool) -> str:
    """The normalised statement, "" when it is no SQL. The many queries of an N+1 page are one statement."""
    if _verb(statement) not in _SQL_VERBS:
        return ""
    return normalised(statement, backslash_escapes=backslash_escapes)


def normalised(statement: str, *, backslash_escapes: bool = False) -> str:
    """SQL with values, placeholders and value lists as `?`, without comments, on one line.

    `backslash_escapes` is for dialects in which a backslash escapes a quote and "..." is a text.
    """
    tokens = _BACKSLASH_TOKENS if backslash_escapes else _STANDARD_TOKENS
    values_replaced = tokens.sub(
        lambda match: match["name"] or (" " if match["comment"] else "?"),
        statement[:_MAX_STATEMENT_CHARACTERS],
    )
    return " ".join(_LIST_OF_VALUES.sub("(?)", values_replaced).split())


def _query(key: tuple[str, str, str], spans: list[ChildSpan]) -> DatabaseQuery:
    statement, system, database = key
    first = spans[0].attributes
    rows = [
        count
        for span in spans
        if (count := integer(span.attributes, "db.response.returned_rows")) is not None
    ]
    return DatabaseQuery(
        query=statement,
        query_type=_verb(statement) or text(first, "db.operation.name", "db.operation").upper(),
        count=len(spans),
        duration=sum(span.duration for span in spans),
        max_duration=max(span.duration for span in spans),
        rows_affected=sum(rows) if rows else None,
        failed_count=sum(span.failed for span in spans),
        system=system,
        database=database,
        caller=_caller(first),
    )


def _verb(statement: str) -> str:
    match = _FIRST_WORD.match(re.sub(_COMMENT, " ", statement[:_MAX_STATEMENT_CHARACTERS], flags=_FLAGS))
    return match[1].upper() if match else ""


def _caller(attributes: Attributes) -> str:
    """ "function (file:line)" as far as the span tells it."""
    function = text(attributes, "code.function.name")
    if not function and (name := text(attributes, "code.function")):
        namespace = text(attributes, "code.namespace")
        function = f"{namespace}.{name}" if namespace else name
    file = text(attributes, "code.file.path", "code.filepath")
    line = integer(attributes, "code.line.number", "code.lineno")
    place = f"{file}:{line}" if file and line is not None else file
    return f"{function} ({place})" if function and place else function or place
