"""What the spans below a request did: queries, cache, outgoing calls, templates. Each counted once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from otel_pyinstrument import native, private_names
from otel_pyinstrument.endpoint import attributes_of, name_of
from otel_pyinstrument.facts.callers import Caller, nearest_caller
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.statements import CACHE_SYSTEMS, shown_sql

DATABASE: Final = "database"
CACHE: Final = "cache"
EXTERNAL: Final = "external"
TEMPLATE: Final = "template"

MAX_GROUPS = 300
"""Different statements, hosts and templates of one request; the rest is counted together, without a name."""

_MAX_CALLERS = 3
_ALWAYS_LOCATED = 3
_RECENT_SPANS = 64
_MAX_WAITING = 500
_MAX_KEPT_CHARACTERS = 2_000


Kind: TypeAlias = "tuple[str, str, str]"
"""What a span did: category, name without values, system. A plain tuple: one is made for every span."""


Figures: TypeAlias = tuple[
    SpanContext,
    "SpanContext | None",
    "InstrumentationScope | None",
    "int | None",
    "int | None",
    StatusCode,
    SpanKind,
]
"""Of a span: context, parent, instrumentation, start and end in nanoseconds, status and kind."""


@dataclass(slots=True, eq=False, repr=False)
class CallSite:
    """A line that issued calls of a group, and the first span that it was seen for."""

    caller: Caller
    span_id: int
    count: int = 1


@dataclass(slots=True, eq=False, repr=False)
class Group:
    """All calls of one kind. Times are nanoseconds; `call_sites` come from a few of the calls only.

    `seen` is about `count`, while the calls are not measured yet.
    """

    category: str
    name: str
    system: str
    seen: int = 0
    count: int = 0
    duration_ns: int = 0
    max_duration_ns: int = 0
    failed: int = 0
    hits: int = 0
    misses: int = 0
    call_sites: list[CallSite] = field(default_factory=list[CallSite])


_Recent: TypeAlias = tuple[
    SpanContext, "SpanContext | None", "InstrumentationScope | None", int, int, int, bool, Group
]
"""As `_Counted`, which takes longer to make than to measure."""


class _Counted(NamedTuple):
    """A span that was counted and may turn out to be part of a later one."""

    context: SpanContext
    parent: SpanContext | None
    instrumentation: InstrumentationScope | None
    start_ns: int
    end_ns: int
    duration_ns: int
    failed: bool
    group: Group

    @property
    def parent_id(self) -> int:
        return self.parent.span_id if self.parent else 0

    @property
    def scope(self) -> str:
        return self.instrumentation.name if self.instrumentation else ""


class ChildSpans:
    """The groups of one request. Any thread; spans that end after `close` are ignored."""

    def __init__(self) -> None:
        # Reentrant: a finalizer may end a span while another is being counted on the same thread.
        self._lock = native.RLock()
        self._groups: dict[Kind, Group] = {}
        self._groups_by_text: dict[tuple[str, str], Group] = {}
        self._recent: deque[_Recent] = deque(maxlen=_RECENT_SPANS)
        self._waiting: list[tuple[Figures, Group, Mapping[str, Any]]] = []
        self._room = _MAX_WAITING
        self._closed = False

    def add(self, span: Span) -> None:
        """Count `span`, which ends on this thread now: its caller is still on the stack.

        Runs under the profile hook, where every call costs twice: the many queries of an N+1 page find their
        group by their text, with two. Nothing is locked for them, each step is one of the interpreter.
        """
        try:
            attributes, figures = private_names.attributes_in(span), private_names.figures_in(span)
        except AttributeError as error:
            if came_from_signal_handler(error):
                raise
            attributes, figures = attributes_of(span), _figures_of(span)
        text: Any = None
        system: Any = None
        if "db.statement" in attributes and "db.system" in attributes:
            text, system = attributes["db.statement"], attributes["db.system"]
        elif "db.query.text" in attributes and "db.system.name" in attributes:
            text, system = attributes["db.query.text"], attributes["db.system.name"]
        known = self._groups_by_text
        # A value may be anything, and only texts are sure to be hashable.
        key = (system, text) if text.__class__ is str and system.__class__ is str else None
        group = known[key] if key is not None and key in known else self._group_of(span, attributes, key)
        if group is None or self._closed:
            return
        waiting = self._waiting
        # Not the span: what is kept until the end of the request makes the garbage collector work.
        waiting += ((figures, group, attributes),)
        self._room -= 1
        if self._room <= 0:
            self._measure_waiting()
        group.seen += 1
        # Last: it reads what is the application's, and may fail.
        if group.name and (group.seen <= _ALWAYS_LOCATED or group.seen & (group.seen - 1) == 0):
            self._locate(group, span)

    def close(self) -> list[Group]:
        """The groups, and no more changes to them."""
        with self._lock:
            self._closed = True
            self._measure_waiting()
            self._recent.clear()
            self._groups_by_text = {}
            return [group for group in self._groups.values() if group.count]

    def _group_of(
        self, span: Span, attributes: Mapping[str, Any], key: tuple[str, str] | None
    ) -> Group | None:
        kind = _kind_of(span, attributes)
        if kind is None:
            return None
        with self._lock:
            group = self._groups[kind] if kind in self._groups else self._new_group(kind)
            few = len(self._groups_by_text) < MAX_GROUPS
            if key is not None and few and _is_named_by(key[1], kind):
                self._groups_by_text[key] = group
        return group

    def _locate(self, group: Group, span: Span) -> None:
        caller = nearest_caller()
        if caller is None:
            return
        with self._lock:
            for site in group.call_sites:
                if site.caller == caller:
                    site.count += 1
                    return
            if len(group.call_sites) < _MAX_CALLERS:
                group.call_sites.append(CallSite(caller, span.get_span_context().span_id))

    def _measure_waiting(self) -> None:
        """What needs no more than the ended spans: if they are not too many, when the hook is gone."""
        with self._lock:
            self._room = _MAX_WAITING  # first: a finalizer may end a span in the middle of this
            waiting = self._waiting[:]
            del self._waiting[: len(waiting)]
            for figures, group, attributes in waiting:
                self._measure(figures, group, attributes)

    def _measure(self, figures: Figures, group: Group, attributes: Mapping[str, Any]) -> None:
        context, parent, scope, start_ns, end_ns, status, kind = figures
        start_ns, end_ns = start_ns or 0, end_ns or 0
        if kind is not SpanKind.CLIENT and group.category != TEMPLATE:
            return  # the text of a query, on a span that is none
        failed = status is StatusCode.ERROR
        duration_ns = end_ns - start_ns if end_ns > start_ns else 0
        recent = self._recent
        if recent and recent[-1][4] > start_ns:  # the end of the last one
            outer = _Counted(context, parent, scope, start_ns, end_ns, duration_ns, failed, group)
            duration_ns = self._without_its_parts(outer).duration_ns
        group.count += 1
        group.failed += failed
        group.duration_ns += duration_ns
        if duration_ns > group.max_duration_ns:
            group.max_duration_ns = duration_ns
        if group.category == CACHE and "cache.hit" in attributes:
            group.hits += attributes["cache.hit"] is True
            group.misses += attributes["cache.hit"] is False
        recent.append((context, parent, scope, start_ns, end_ns, duration_ns, failed, group))

    def _new_group(self, kind: Kind) -> Group:
        if len(self._groups) >= MAX_GROUPS:
            kind = (kind[0], "", "")
        return self._groups.setdefault(kind, Group(*kind))

    def _without_its_parts(self, outer: _Counted) -> _Counted:
        """Take back what was counted for the same work, seen by two instrumentations.

        SQLAlchemy and the driver below it make siblings, others nest: the outer span counts. A nested span
        that did something of its own (a template loaded while another is rendered) keeps its time.
        """
        part: _Counted | None = None
        nested_ns = 0
        for inner in map(_Counted._make, reversed(tuple(self._recent))):
            if inner.end_ns < outer.start_ns:
                break
            if inner.start_ns < outer.start_ns or inner.end_ns > outer.end_ns:
                continue
            if inner.group.category != outer.group.category:
                continue
            nested = inner.parent_id == outer.context.span_id
            same_work = inner.group.name == outer.group.name and inner.scope != outer.scope
            if nested and (same_work or outer.group.category == EXTERNAL):
                self._take_back(inner)
            elif nested:
                nested_ns += inner.end_ns - inner.start_ns
            elif same_work and inner.parent_id == outer.parent_id:
                # Of several that overlap, as in concurrent tasks, the one that began right after.
                part = inner if part is None or inner.start_ns < part.start_ns else part
        if part is not None:
            self._take_back(part)
        if nested_ns:
            return outer._replace(duration_ns=max(0, outer.duration_ns - nested_ns))
        return outer

    def _take_back(self, counted: _Counted) -> None:
        self._recent.remove(counted)
        counted.group.count -= 1
        counted.group.duration_ns -= counted.duration_ns
        counted.group.failed -= counted.failed


def _is_named_by(text: str, kind: Kind) -> bool:
    """Whether every span of this text is of this kind. Without SQL the span's name counts too."""
    if not text or len(text) > _MAX_KEPT_CHARACTERS:
        return False
    return kind[0] == CACHE or (kind[0] == DATABASE and bool(shown_sql(text, kind[2])))


def _figures_of(span: Span) -> Figures:
    """What `figures_in` finds, by the public names."""
    times = span.start_time, span.end_time
    return (
        span.get_span_context(),
        span.parent,
        span.instrumentation_scope,
        *times,
        span.status.status_code,
        span.kind,
    )


def _kind_of(span: Span, attributes: Mapping[str, Any]) -> Kind | None:
    if "jinja2.template_name" in attributes:
        name = attributes["jinja2.template_name"]
        return TEMPLATE, name if isinstance(name, str) else "", name_of(span)
    if span.kind is not SpanKind.CLIENT:
        return None
    if "db.system" in attributes or "db.system.name" in attributes:
        return _database_kind(span, attributes)
    if method := _text(attributes, "http.request.method", "http.method"):
        return EXTERNAL, f"{method} {_host_of(attributes)}".strip(), "http"
    if system := _text(attributes, "rpc.system.name", "rpc.system"):
        parts = (_text(attributes, "rpc.service"), _text(attributes, "rpc.method"))
        return EXTERNAL, "/".join(filter(None, parts)) or name_of(span), system
    return None


def _database_kind(span: Span, attributes: Mapping[str, Any]) -> Kind | None:
    system = _text(attributes, "db.system.name", "db.system").lower()
    statement = _text(attributes, "db.query.text", "db.statement")
    if system in CACHE_SYSTEMS:
        return CACHE, (statement or name_of(span)).partition(" ")[0][:40].upper(), system
    name = shown_sql(statement, system) if statement else ""
    if not name:
        if not statement and span.name == "connect":
            return None  # SQLAlchemy's span for taking a connection from the pool
        # Only what is known to be a name: other languages mix names and values in ways of their own.
        operation = _text(attributes, "db.query.summary", "db.operation.name", "db.operation")
        operation = operation or name_of(span)
        collection = _text(attributes, "db.collection.name", "db.mongodb.collection", "db.sql.table")
        name = operation if collection in operation else f"{operation} {collection}".strip()
    return DATABASE, name, system


def _host_of(attributes: Mapping[str, Any]) -> str:
    """Host and port without the path, which may hold anybody's data."""
    host = _text(attributes, "server.address", "net.peer.name")
    if not host:
        try:
            return urlsplit(_text(attributes, "url.full", "http.url")).netloc.rpartition("@")[2]
        except ValueError as error:
            if came_from_signal_handler(error):
                raise
            return ""
    port = attributes.get("server.port", attributes.get("net.peer.port"))
    return f"{host}:{port}" if isinstance(port, int) else host


def _text(attributes: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if name in attributes and isinstance(attributes[name], str) and attributes[name]:
            return attributes[name]
    return ""


def in_category(groups: Iterable[Group], category: str) -> list[Group]:
    """The groups of one category, those that took longest first."""
    found = [group for group in groups if group.category == category]
    found.sort(key=lambda group: (-group.duration_ns, group.name, group.system))
    return found
