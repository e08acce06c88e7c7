"""Finds and reads the event `pyinstrument.profile` (wire format version 1, docs/wire-format.md)."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_pyinstrument.call_tree import (
    DEFAULT_LIMITS,
    FORMAT_VERSION,
    CallTree,
    InvalidPayload,
    decode,
)
from profile_store.hot_functions import hot_function_facts
from profile_store.model import Attributes, AttributeValue, HotFunctionFacts, ProfileFacts
from profile_store.otlp_attributes import attributes_of

EVENT_NAME = "pyinstrument.profile"
REASONS = frozenset({"rate", "slow", "error", "rule", "forced"})
ENCODINGS = ("zlib+json", "zlib+json+base64")  # compared, not hashed: the value may be a list

MAX_JSON_BYTES_PER_REQUEST = 64 * 1024 * 1024
MAX_JSON_BYTES_ON_LOOP = 32_768
"""Of the profiles of a request that is translated on the event loop: four usual ones, 3 ms of work."""

MAX_FACTS_BYTES = 16_384

MAX_SECONDS = DEFAULT_LIMITS.max_sum / 1e6
"""Times of a profile beyond what its call tree may sum to, 101 days, are not believed."""

_CHUNK_BYTES = 262_144


class BrokenProfile(Exception):
    """The profile cannot be used; its span can. `reason` is a short snake_case name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooCostlyHere(Exception):
    """The request would keep the event loop from others: read and translate it on a thread."""


@dataclass(frozen=True, slots=True)
class ReceivedProfile:
    """A payload that decodes, with what the record shows of it without decoding it again.

    `request_facts` is the JSON text of `pyinstrument.facts`, "" without one that can be read.
    """

    payload: bytes
    facts: ProfileFacts
    request_facts: str
    hot_functions: tuple[HotFunctionFacts, ...]


class DecodeBudget:
    """JSON bytes that the profiles of one request may unfold to; keeps a request of zip bombs short."""

    def __init__(
        self, available_bytes: int = MAX_JSON_BYTES_PER_REQUEST, *, exhausted: type[Exception] = BrokenProfile
    ) -> None:
        self.left = available_bytes
        self._exhausted = exhausted

    @classmethod
    def on_loop(cls) -> DecodeBudget:
        """A small one, whose end costs no profile: `spend` raises `TooCostlyHere` then."""
        return cls(MAX_JSON_BYTES_ON_LOOP, exhausted=TooCostlyHere)

    def spend(self, payload: bytes) -> None:
        """Take what `payload` inflates to, at most what one profile may have.

        Raises:
            BrokenProfile: not zlib, or the budget of the request is used up.
            TooCostlyHere: the budget `on_loop` is used up.
        """
        inflater = zlib.decompressobj()
        size, rest = 0, payload
        at_most = min(DEFAULT_LIMITS.max_json_bytes, self.left)
        try:
            while rest and not inflater.eof and size <= at_most:
                size += len(inflater.decompress(rest, _CHUNK_BYTES))
                rest = inflater.unconsumed_tail
        except zlib.error:
            raise BrokenProfile("profile_not_zlib") from None
        finally:
            self.left -= size
        if self.left < 0:
            raise self._exhausted("profile_budget_of_request_used_up")


def take_profile_event(span: Span) -> Span.Event | None:
    """Remove every profile event from `span`; the first one, or None. A span has one profile."""
    if not span.events:
        return None
    found: Span.Event | None = None
    kept: list[Span.Event] = []
    for event in span.events:
        if event.name != EVENT_NAME:
            kept.append(event)
        elif found is None:
            found = Span.Event()
            found.CopyFrom(event)
    if found is not None:
        # All at once: taking them out one by one would move the rest each time.
        del span.events[:]
        span.events.extend(kept)
    return found


def read_profile(pairs: Iterable[KeyValue], budget: DecodeBudget) -> ReceivedProfile:
    """Decode the call tree in an event's attributes and take from it what a record shows.

    The facts that the tree knows (nodes, samples) are counted in the tree, not believed from the attributes.

    Raises:
        BrokenProfile: with the named reason, and nothing else for any bytes whatsoever.
        TooCostlyHere: see `DecodeBudget.on_loop`.
    """
    attributes = attributes_of(pairs)
    payload = _payload(attributes)
    budget.spend(payload)
    try:
        tree = decode(payload)
    except InvalidPayload as problem:
        raise BrokenProfile(f"profile_{problem.reason}") from None
    return ReceivedProfile(
        payload, _facts(attributes, tree), _request_facts(attributes), hot_function_facts(tree)
    )


def _payload(attributes: Attributes) -> bytes:
    version = attributes.get("pyinstrument.format")
    if version != FORMAT_VERSION:
        raise BrokenProfile("profile_unknown_format")
    encoding = attributes.get("pyinstrument.encoding")
    if encoding not in ENCODINGS:
        raise BrokenProfile("profile_unknown_encoding")
    payload = attributes.get("pyinstrument.payload")
    match payload:
        case bytes():
            raw = payload
        case str():
            raw = _from_base64(payload)
        case None:
            raise BrokenProfile("profile_without_payload")
        case _:
            raise BrokenProfile("profile_payload_of_wrong_type")
    if len(raw) > DEFAULT_LIMITS.max_compressed_bytes:
        raise BrokenProfile("profile_payload_too_large")
    return raw


def _from_base64(text: str) -> bytes:
    """Text arrives where an exporter on the way cannot carry bytes; a length limit on the way cuts it."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BrokenProfile("profile_not_base64") from None


def _facts(attributes: Attributes, tree: CallTree) -> ProfileFacts:
    duration = _seconds(attributes.get("pyinstrument.duration"))
    reason = attributes.get("pyinstrument.reason")
    return ProfileFacts(
        sample_count=tree.sample_count,
        node_count=tree.node_count,
        interval=_seconds(attributes.get("pyinstrument.interval")) or 0.0,
        duration=tree.duration_us / 1e6 if duration is None else duration,
        cpu_time=_seconds(attributes.get("pyinstrument.cpu_time")),
        reason=reason if isinstance(reason, str) and reason in REASONS else "unknown",
        truncated=attributes.get("pyinstrument.truncated") is True,
        interrupted=attributes.get("pyinstrument.interrupted") is True,
    )


def _request_facts(attributes: Attributes) -> str:
    """The text if it is a JSON object of the documented size; a limit on the way may have cut it."""
    text = attributes.get("pyinstrument.facts")
    if not isinstance(text, str) or len(text) > MAX_FACTS_BYTES or not text.isascii() or "\0" in text:
        return ""
    try:
        return text if isinstance(json.loads(text), dict) else ""
    except (ValueError, RecursionError):
        return ""


def _seconds(value: AttributeValue) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
        return float(value)
    return None
