"""The facts of one request: collected on its threads, written as JSON by the exporter's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Span

from otel_pyinstrument.endpoint import attributes_of
from otel_pyinstrument.facts import http, process
from otel_pyinstrument.facts.child_spans import (
    CACHE,
    DATABASE,
    EXTERNAL,
    TEMPLATE,
    ChildSpans,
    Group,
    in_category,
)
from otel_pyinstrument.facts.usage import Usage, available_processors, usage
from otel_pyinstrument.frames import current_place
from otel_pyinstrument.guard import came_from_signal_handler

MAX_BYTES = 16_384
"""Of the JSON text, which is ASCII."""

_GROUPS_SHOWN = (20, 8, 3, 0)
_MAX_NAME_CHARACTERS = 500
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)  # made here, so without circles


class RequestFacts:
    """Made when a request starts; `child_ended` on any thread, `finish` once."""

    def __init__(self) -> None:
        self._children = ChildSpans()
        self.child_ended = self._children.add
        self._start = usage()

    def finish(self, span: Span) -> FinishedFacts:
        """Take the last figures. `span` is the request's own; on the thread that ends it."""
        return FinishedFacts(
            groups=self._children.close(),
            start=self._start,
            end=usage(),
            attributes=attributes_of(span),
            scope=span.instrumentation_scope.name if span.instrumentation_scope else "",
            thread=_thread_name(),
        )


def _thread_name() -> str:
    """The application may have its own idea of a name."""
    try:
        return str(threading.current_thread().name)
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        return ""


class FinishedFacts:
    """What is left of a request, cheap to make; the work is in `as_json`."""

    def __init__(
        self,
        *,
        groups: Sequence[Group],
        start: Usage,
        end: Usage,
        attributes: Mapping[str, Any],
        scope: str,
        thread: str,
    ) -> None:
        self._groups = groups
        self._start = start
        self._end = end
        self._attributes = attributes
        self._scope = scope
        self._thread = thread

    def as_json(self, mask: Sequence[str]) -> str:
        """As in docs/wire-format.md, at most `MAX_BYTES`. `mask`: parts of names whose values are hidden."""
        facts: dict[str, object] = {
            "memory": _memory(self._start, self._end),
            "cpu": _cpu(self._start, self._end),
            "process": _without_empty(process.process_facts(self._thread)),
            "runtime": _without_empty(process.runtime_facts(self._scope)),
            "commit": process.commit(),
            "request": _without_empty(http.request_facts(self._attributes, mask)),
            "response": _without_empty(http.response_facts(self._attributes, mask)),
        }
        for groups_shown in _GROUPS_SHOWN:
            facts |= _calls(self._groups, groups_shown)
            text = _JSON.encode(_without_empty(facts))
            if len(text) <= MAX_BYTES:
                return text
        del facts["request"], facts["response"]
        return _JSON.encode(_without_empty(facts))


def _calls(groups: Sequence[Group], shown: int) -> dict[str, object]:
    answer: dict[str, object] = {}
    if not groups:
        return answer
    place = current_place()
    for category in (DATABASE, CACHE, EXTERNAL, TEMPLATE):
        found = in_category(groups, category)
        if not found:
            continue
        named = [group for group in found if group.name]
        answer[category] = {
            "count": sum([group.count for group in found]),
            "duration": _seconds(sum([group.duration_ns for group in found])),
            "failed": sum([group.failed for group in found]),
            **(_hits(found) if category == CACHE else {}),
            "groups": [_group(group, place) for group in named[:shown]],
            "groups_left_out": len(found) - len(named[:shown]),
        }
    return answer


def _hits(groups: Sequence[Group]) -> dict[str, object]:
    """Only what spans tell: those of today's cache instrumentations do not."""
    hits, misses = sum([group.hits for group in groups]), sum([group.misses for group in groups])
    return {"hits": hits, "misses": misses} if hits or misses else {}


def _group(group: Group, place: Callable[[str], tuple[str, bool]]) -> dict[str, object]:
    members: dict[str, object] = {
        "name": group.name[:_MAX_NAME_CHARACTERS],
        "system": group.system[:_MAX_NAME_CHARACTERS],
        "count": group.count,
        "duration": _seconds(group.duration_ns),
        "max_duration": _seconds(group.max_duration_ns),
        "failed": group.failed,
        "callers": [
            {
                "function": site.caller.function[-_MAX_NAME_CHARACTERS:],
                "file": place(site.caller.file)[0][-_MAX_NAME_CHARACTERS:],
                "line": site.caller.line,
                "span": f"{site.span_id:016x}",
                "seen": site.count,
            }
            for site in group.call_sites
        ],
    }
    return _without_empty(members)


def _memory(start: Usage, end: Usage) -> dict[str, object]:
    """`peak_rss` is the highest value known of the time of the request, not of the process."""
    facts: dict[str, object] = {}
    if start.rss is not None and end.rss is not None:
        facts |= {"rss": end.rss, "rss_delta": end.rss - start.rss}
        rose = end.peak_rss is not None and start.peak_rss is not None and end.peak_rss > start.peak_rss
        facts["peak_rss"] = max(start.rss, end.rss, end.peak_rss or 0 if rose else 0)
    if start.traced is not None and end.traced is not None:
        facts |= {"traced": end.traced, "traced_delta": end.traced - start.traced}
    return facts


def _cpu(start: Usage, end: Usage) -> dict[str, object]:
    """CPU time of the whole process, all its threads, and its share of the processors it may use."""
    seconds = max(0.0, end.cpu_seconds - start.cpu_seconds)
    available = (end.wall_seconds - start.wall_seconds) * available_processors()
    facts: dict[str, object] = {"process_time": round(seconds, 6)}
    if available > 0:
        facts["process_share"] = round(min(1.0, seconds / available), 4)
    return facts


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e9, 6)


def _without_empty(members: Mapping[str, object]) -> dict[str, object]:
    """Without what says nothing: None, empty texts, lists and objects."""
    return {name: member for name, member in members.items() if member or member == 0}
