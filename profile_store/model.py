"""What the platform stores and shows: projects, records, profiles and child spans.

Plain frozen values without a database or a protocol in them. Field names follow the API
contract; times are timezone-aware UTC, durations are seconds unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeAlias, TypeVar

from otel_pyinstrument.call_tree import CallTree

Scalar: TypeAlias = str | int | float | bool
AttributeValue: TypeAlias = "Scalar | bytes | Sequence[AttributeValue] | Mapping[str, AttributeValue] | None"
Attributes: TypeAlias = Mapping[str, AttributeValue]

Item = TypeVar("Item")

DEFAULT_RETENTION_DAYS = 30
MAX_RETENTION_DAYS = 3_650

Framework = Literal["flask", "django", "fastapi", "other"]

EndpointOrigin = Literal["declared", "path", "unmatched"]
"""Where the name of an endpoint comes from.

`declared`: a route, a procedure or a function, whose number the application decides. `path`: a template of
the path that was asked for, so whoever asks decides. `unmatched`: the same, and the application refused it.
"""

ProjectStatus = Literal["active", "inactive", "archived"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectKey:
    """A key of a project as far as it can be shown: its beginning. Without `expires_at` it has no end."""

    prefix: str
    created_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new key, `secret` in full: only its hash is kept, so nobody can ever see it again."""

    secret: str
    key: ProjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One monitored service. `id` is public and stands in page addresses; a key lets senders write.

    `project_key` is what clients name the project by: the key itself in the answer of `create_project`, the
    only time that it can be seen, and the id ever after. `keys` are the valid ones.
    """

    id: str
    name: str
    project_key: str
    keys: Sequence[ProjectKey] = ()
    description: str = ""
    framework: Framework = "other"
    base_url: str = ""
    status: ProjectStatus = "active"
    config: Mapping[str, AttributeValue] = field(default_factory=dict[str, "AttributeValue"])
    created_at: datetime
    updated_at: datetime
    last_activity: datetime | None = None

    @property
    def retention_days(self) -> int:
        """How many days the project's data is kept."""
        return retention_days(self.config)


def retention_days(config: Mapping[str, AttributeValue]) -> int:
    """The retention in a project's configuration; the default without a sensible one."""
    value = config.get("retention_days")
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RETENTION_DAYS:
        return value
    return DEFAULT_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFacts:
    """What is known of a profile without decoding its call tree."""

    sample_count: int
    node_count: int
    interval: float
    duration: float
    cpu_time: float | None
    reason: str
    truncated: bool
    interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HotFunctionFacts:
    """One of the functions that the time of a request is charged to (see `call_tree.hot_functions`)."""

    function: str
    module: str
    file: str
    line: int
    self_duration: float
    duration: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request: a server span, with its profile's facts if it was profiled.

    `attributes` and `resource` are the span's and resource's own, bounded by the receiver. `span_id` and
    `trace_id` are 8 and 16 bytes. `timestamp` is the start; `duration` is in seconds. `facts` is what came
    with the profile as `pyinstrument.facts`: a JSON object as text, "" without one.
    """

    project_id: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None
    endpoint: str
    method: str
    path: str
    status_code: int | None
    failed: bool
    duration: float
    timestamp: datetime
    start_time_unix_nano: int
    version: str = ""
    environment: str = ""
    service: str = ""
    attributes: Attributes = field(default_factory=dict[str, "AttributeValue"])
    resource: Attributes = field(default_factory=dict[str, "AttributeValue"])
    events: Sequence[SpanEvent] = ()
    profile: ProfileFacts | None = None
    hot_functions: Sequence[HotFunctionFacts] = ()
    facts: str = ""
    created_at: datetime | None = None

    @property
    def id(self) -> str:
        """48 hexadecimal digits: trace id, then span id. Stands in page addresses."""
        return self.trace_id.hex() + self.span_id.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """An event of a span that is not our profile: an exception, a log line of the application."""

    name: str
    time_unix_nano: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpan:
    """A span that is not a request: a query, a template, an outgoing call. Read from stored OTLP bytes."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None
    name: str
    kind: int
    start_time_unix_nano: int
    end_time_unix_nano: int
    failed: bool
    scope: str
    attributes: Attributes

    @property
    def duration(self) -> float:
        """Seconds."""
        return max(0, self.end_time_unix_nano - self.start_time_unix_nano) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingRecord:
    """A record as the receiver hands it over, with its call tree in wire format version 1 if it has one.

    The receiver has decoded `payload` successfully; `profile` and `hot_functions` of the record came from it.
    `endpoint_origin` decides how freely the store gives out new names of endpoints.
    """

    record: Record
    payload: bytes | None = None
    endpoint_origin: EndpointOrigin = "declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingProfile:
    """A profile that came without its span, as a log record. `timestamp` is the end of the request.

    `profile`, `hot_functions` and `facts` are what the record of that span will have, see `Record`.
    """

    project_id: str
    trace_id: bytes
    span_id: bytes
    timestamp: datetime
    payload: bytes
    profile: ProfileFacts
    hot_functions: Sequence[HotFunctionFacts] = ()
    facts: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingChildSpans:
    """The child spans of one trace that arrived together, as OTLP bytes.

    `otlp` is a serialised `opentelemetry.proto.trace.v1.ResourceSpans` that holds exactly the spans
    named by `span_ids` (8 bytes each), all of trace `trace_id`.
    """

    project_id: str
    trace_id: bytes
    span_ids: Sequence[bytes]
    timestamp: datetime
    otlp: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingBatch:
    """What one export request holds after validation."""

    records: Sequence[IncomingRecord] = ()
    child_spans: Sequence[IncomingChildSpans] = ()
    profiles: Sequence[IncomingProfile] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordQuery:
    """Filters of the record list; all given ones must hold. `sort` names a field, `-` means descending."""

    project_id: str
    endpoint: str | None = None
    method: str | None = None
    status: Literal["ok", "failed"] | int | None = None
    version: str | None = None
    environment: str | None = None
    min_duration: float | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    profiled: bool | None = None
    sort: Literal["-timestamp", "timestamp", "-duration", "duration"] = "-timestamp"
    page: int = 1
    page_size: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """One page of a list. `total` is a lower bound when `total_is_exact` is False."""

    items: Sequence[Item]
    page: int
    page_size: int
    total: int
    total_is_exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectStatistics:
    """Numbers of one project over a window; response times in milliseconds, None without a request."""

    total_requests: int
    avg_response_time: float | None
    p95_response_time: float | None
    error_rate: float | None
    last_request_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDetail:
    """A record with everything that belongs to it.

    `call_tree` is None when it was not profiled or the profile is gone. `child_spans_truncated` tells that
    the trace has more child spans than one page reads.
    """

    record: Record
    call_tree: CallTree | None
    child_spans: Sequence[ChildSpan]
    child_spans_truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What one step of `Administration.upkeep` did. `is_finished`: nothing is left to do at the moment."""

    removed_documents: int
    changed_documents: int
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStorage:
    """What one collection takes. `content_bytes` is before, `disk_bytes` after the database's compression.

    `index_bytes` is on disk, by index. `reusable_bytes` of `disk_bytes` are free for new documents.
    """

    name: str
    documents: int
    content_bytes: int
    disk_bytes: int
    reusable_bytes: int
    index_bytes: Mapping[str, int]

    @property
    def used_bytes(self) -> int:
        """What the documents themselves take of `disk_bytes`."""
        return self.disk_bytes - self.reusable_bytes

    @property
    def bytes_per_document(self) -> float | None:
        """On disk with all indexes; None without documents."""
        if not self.documents:
            return None
        return (self.used_bytes + sum(self.index_bytes.values())) / self.documents


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectStorage:
    """What one project takes in one collection: documents and their share of the bytes, indexes included.

    `project` is the name, or the id of a project that is being deleted.
    """

    project: str
    collection: str
    documents: int
    content_bytes: int
    bytes_on_disk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReport:
    """Collections exactly; projects from a sample, largest first, unless `is_sampled` is False."""

    collections: Sequence[CollectionStorage]
    projects: Sequence[ProjectStorage]
    is_sampled: bool
