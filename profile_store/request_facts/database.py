"""Database queries of a request, grouped by statement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from otel_pyinstrument.statements import CACHE_SYSTEMS, shown_sql, verb_of
from profile_store.model import Attributes, ChildSpan, RecordDetail
from profile_store.request_facts.attribute_access import integer, text

SLOW_QUERY_SECONDS = 0.1


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
    if sql := shown_sql(statement, system_of(attributes)):
        return sql
    # Other languages mix names and values in ways of their own, so only what is known to be a name is shown.
    if summary := text(attributes, "db.query.summary"):
        return summary
    operation = text(attributes, "db.operation.name", "db.operation") or span.name
    collection = text(attributes, "db.collection.name", "db.mongodb.collection", "db.sql.table")
    return f"{operation} {collection}".strip() if collection not in operation else operation


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
        query_type=verb_of(statement) or text(first, "db.operation.name", "db.operation").upper(),
        count=len(spans),
        duration=sum(span.duration for span in spans),
        max_duration=max(span.duration for span in spans),
        rows_affected=sum(rows) if rows else None,
        failed_count=sum(span.failed for span in spans),
        system=system,
        database=database,
        caller=_caller(first),
    )


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
