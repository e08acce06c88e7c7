"""Database queries of a request, grouped by statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from otel_pyinstrument.statements import CACHE_SYSTEMS, shown_sql, verb_of
from profile_store.model import Attributes, ChildSpan, RecordDetail
from profile_store.request_facts.attribute_access import integer, text
from profile_store.request_facts.measured import MeasuredGroup, measured

SLOW_QUERY_SECONDS = 0.1

_MAX_OPEN_SPANS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseQuery:
    """All executions of one statement. `duration` is their sum in seconds.

    `caller` is the line of the application that issued them, "function (file:line)", a few of them with
    commas between when they differ.
    """

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
    """Queries grouped by normalised statement, longest total first.

    From the spans; a request whose query spans are missing has what the application counted.
    """
    groups: dict[tuple[str, str, str], list[ChildSpan]] = {}
    for span in database_spans(detail):
        system = system_of(span.attributes)
        statement = statement_of(span)
        database = text(span.attributes, "db.namespace", "db.name")
        groups.setdefault((statement, system, database), []).append(span)
    known = measured(detail.record).database.groups
    callers = _callers(detail, known)
    queries = [_query(key, spans, callers.get(key[0], [])) for key, spans in groups.items()]
    # The application counted them too, for when their spans are sampled away or late.
    queries = queries or [_measured_query(group) for group in known if group.name and group.count]
    return sorted(queries, key=lambda query: (-query.duration, query.query))


def database_spans(detail: RecordDetail) -> Iterator[ChildSpan]:
    """Child spans that are calls of a database which is no cache, each query once."""
    spans = [
        span
        for span in detail.child_spans
        if (system := system_of(span.attributes)) and system not in CACHE_SYSTEMS and not _is_connect(span)
    ]
    parts = _parts_of_others(spans)
    for span in spans:
        if span.span_id not in parts:
            yield span


def _is_connect(span: ChildSpan) -> bool:
    """SQLAlchemy's span for taking a connection from the pool."""
    return span.name == "connect" and not text(span.attributes, "db.query.text", "db.statement")


def _parts_of_others(spans: Sequence[ChildSpan]) -> set[bytes]:
    """Spans of a driver for which an instrumentation above it (SQLAlchemy) has a span around it.

    They are siblings, or the driver's is the child. Of concurrent spans each takes one part: the next.
    """
    parts: set[bytes] = set()
    open_spans: dict[str, list[ChildSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano)):
        outer_spans = open_spans.setdefault(statement_of(span), [])
        outer_spans[:] = [
            outer
            for outer in outer_spans[-_MAX_OPEN_SPANS:]
            if outer.end_time_unix_nano >= span.start_time_unix_nano
        ]
        for outer in reversed(outer_spans):
            if _is_part(span, outer):
                outer_spans.remove(outer)
                parts.add(span.span_id)
                break
        else:
            outer_spans.append(span)
    return parts


def _is_part(span: ChildSpan, outer: ChildSpan) -> bool:
    return (
        span.scope != outer.scope
        and span.end_time_unix_nano <= outer.end_time_unix_nano
        and span.parent_span_id in (outer.parent_span_id, outer.span_id)
    )


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


def _query(key: tuple[str, str, str], spans: list[ChildSpan], callers: Iterable[str]) -> DatabaseQuery:
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
        caller=", ".join(callers) or _caller(first),
    )


def _callers(detail: RecordDetail, known: Iterable[MeasuredGroup]) -> dict[str, list[str]]:
    """The lines that the application saw issuing each statement, by the spans that it saw them for.

    Not by the statement's text: another version may normalise it in another way.
    """
    by_span = {span_id: group for group in known for span_id in group.span_ids}
    found: dict[str, dict[str, None]] = {}
    for span in detail.child_spans:
        if group := by_span.get(span.span_id):
            found.setdefault(statement_of(span), {}).update(dict.fromkeys(group.callers))
    return {statement: list(callers) for statement, callers in found.items()}


def _measured_query(group: MeasuredGroup) -> DatabaseQuery:
    return DatabaseQuery(
        query=group.name,
        query_type=verb_of(group.name),
        count=group.count,
        duration=group.duration,
        max_duration=group.max_duration,
        rows_affected=None,
        failed_count=group.failed_count,
        system=group.system,
        database="",
        caller=", ".join(group.callers),
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
