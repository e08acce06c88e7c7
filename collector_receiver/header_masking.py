"""Captured HTTP headers that hold secrets are masked before they are stored, not only when they are shown.

Instrumentations capture headers as `http.request.header.<name>` and `http.response.header.<name>` when the
user asks for it; not every one of them masks, and senders may be of any language.
"""

from __future__ import annotations

import re

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_pyinstrument.masking import MASK, is_secret
from profile_store.model import AttributeValue

HEADER_PREFIXES = ("http.request.header.", "http.response.header.")
_PREFIX_IN_BYTES = re.compile(rb"http\.(?:request|response)\.header\.")


def may_hold_headers(otlp: bytes) -> bool:
    """Whether these bytes of spans may hold captured headers: keys lie in there as they are."""
    return _PREFIX_IN_BYTES.search(otlp) is not None


def mask_attributes(attributes: dict[str, AttributeValue]) -> None:
    """Replace the values of secret headers, in place."""
    if ".header." not in "".join(attributes):
        return
    for key in attributes:
        if _is_secret_header(key):
            attributes[key] = MASK


def masked_otlp(span: Span, otlp: bytes) -> bytes:
    """`otlp`, the bytes of `span`, with secret headers replaced. Spans without headers cost one search."""
    if not may_hold_headers(otlp):
        return otlp
    for pair in span.attributes:
        if _is_secret_header(pair.key):
            pair.value.Clear()
            pair.value.string_value = MASK
    return span.SerializeToString()


def _is_secret_header(key: str) -> bool:
    return key.startswith(HEADER_PREFIXES) and is_secret(key)
