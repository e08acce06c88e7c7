"""The bytes that each span of a request came in, or that its JSON became: what is stored of a child span.

Protobuf cuts them out by a second description of the request, in which a span is bytes and everything else is
left unread. That costs a fifteenth of writing the spans again. It tells nothing about whether they are sound:
the request is read as a whole as well, and only then are its bytes used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

_PACKAGE = "collector_receiver.written_spans"


class WrittenScope(Protocol):
    """The spans of one `ScopeSpans`, in their order."""

    @property
    def spans(self) -> Sequence[bytes]: ...


class WrittenResource(Protocol):
    """The scopes of one `ResourceSpans`, in their order."""

    @property
    def scope_spans(self) -> Sequence[WrittenScope]: ...


def spans_as_written(body: bytes) -> Sequence[WrittenResource]:
    """One element for each `resource_spans` of `body`, which protobuf can read as a request."""
    return _Request.FromString(body).resource_spans


def _request_class() -> Any:
    file = FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    file.message_type.extend(
        [
            _message(ExportTraceServiceRequest.DESCRIPTOR, "resource_spans", inner="ResourceSpans"),
            _message(ResourceSpans.DESCRIPTOR, "scope_spans", inner="ScopeSpans"),
            _message(ScopeSpans.DESCRIPTOR, "spans"),
        ]
    )
    pool = DescriptorPool()
    pool.Add(file)
    name = f"{_PACKAGE}.{ExportTraceServiceRequest.DESCRIPTOR.name}"
    return GetMessageClass(pool.FindMessageTypeByName(name))


def _message(described: Descriptor, name: str, *, inner: str = "") -> DescriptorProto:
    """A message with this one field of `described`: of type `inner`, or bytes."""
    field = FieldDescriptorProto(
        name=name,
        number=described.fields_by_name[name].number,
        label=FieldDescriptorProto.LABEL_REPEATED,
        type=FieldDescriptorProto.TYPE_MESSAGE if inner else FieldDescriptorProto.TYPE_BYTES,
        type_name=f".{_PACKAGE}.{inner}" if inner else None,
    )
    return DescriptorProto(name=described.name, field=[field])


_Request = _request_class()
