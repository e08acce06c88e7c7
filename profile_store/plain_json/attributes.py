"""What a plain record tells about its request, under the names that OpenTelemetry's conventions have for it.

So API and pages show such a record like every other. Secrets are masked before anything is stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlencode

from otel_pyinstrument.masking import MASK, is_secret
from profile_store.model import AttributeValue
from profile_store.plain_json.fields import Fields

_MAX_PAIRS = 128
_MAX_VALUE_CHARACTERS = 4_096
_MAX_NAME_CHARACTERS = 200
_MAX_MEGABYTES = 1e9
_BYTES_PER_MEGABYTE = 1_000_000
_MAX_QUERY_CHARACTERS = 8_192

Mutable: TypeAlias = dict[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Told:
    """Attributes of the request, of its process, and what was measured (`Record.facts`)."""

    attributes: Mutable
    resource: Mutable
    facts: str


def told(record: Fields) -> Told:
    """Everything that is known beside name, times and calls.

    Raises:
        BadRecord
    """
    attributes = {**_request(record.object("request_info")), **_response(record.object("response_info"))}
    if request_id := record.text("request_id", limit=_MAX_NAME_CHARACTERS):
        attributes["http.request.header.x-request-id"] = [request_id]
    return Told(attributes, _resource(record), _facts(record))


def environment_of(record: Fields) -> str:
    """The name of the deployment environment; older senders put facts of the process there instead."""
    if isinstance(record.raw("environment"), dict):
        return record.object("metadata").text("environment", limit=_MAX_NAME_CHARACTERS)
    return record.text("environment", limit=_MAX_NAME_CHARACTERS) or record.object("metadata").text(
        "environment", limit=_MAX_NAME_CHARACTERS
    )


def _request(info: Fields) -> Mutable:
    attributes: Mutable = {}
    query = [
        (name, MASK if is_secret(name) else value)
        for name, values in info.pairs(
            "query_params", limit=_MAX_PAIRS, value_limit=_MAX_VALUE_CHARACTERS
        ).items()
        for value in values
    ]
    if query:
        attributes["url.query"] = urlencode(query, safe="*")[:_MAX_QUERY_CHARACTERS]
    attributes.update(_headers(info, "http.request.header."))
    if agent := info.text("user_agent", limit=_MAX_VALUE_CHARACTERS):
        attributes["user_agent.original"] = agent
    if address := info.text("remote_ip", limit=_MAX_NAME_CHARACTERS):
        attributes["client.address"] = address
    if (size := info.count("request_size")) is not None:
        attributes["http.request.body.size"] = size
    return attributes


def _response(info: Fields) -> Mutable:
    attributes = _headers(info, "http.response.header.")
    if content_type := info.text("content_type", limit=_MAX_NAME_CHARACTERS):
        attributes["http.response.header.content-type"] = [content_type]
    if (size := info.count("response_size")) is not None:
        attributes["http.response.body.size"] = size
    return attributes


def _headers(info: Fields, prefix: str) -> Mutable:
    headers = info.pairs("headers", limit=_MAX_PAIRS, value_limit=_MAX_VALUE_CHARACTERS)
    return {
        f"{prefix}{name.lower()}": MASK if is_secret(name) else values for name, values in headers.items()
    }


def _resource(record: Fields) -> Mutable:
    resource: Mutable = {}
    server = record.object("server_info")
    if host := server.text("hostname", limit=_MAX_NAME_CHARACTERS):
        resource["host.name"] = host
    if (pid := server.count("pid")) is not None:
        resource["process.pid"] = pid
    if commit := record.object("version_info").text("git_commit", limit=_MAX_NAME_CHARACTERS):
        resource["vcs.ref.head.revision"] = commit
    if python := _process(record).text("python_version", limit=_MAX_NAME_CHARACTERS):
        resource["process.runtime.name"] = "cpython"
        resource["process.runtime.version"] = python
    return resource


def _process(record: Fields) -> Fields:
    """Facts of the process: `runtime`, or `environment` where that is no name."""
    return record.object("environment" if isinstance(record.raw("environment"), dict) else "runtime")


def _facts(record: Fields) -> str:
    metrics = record.object("performance_metrics")
    memory, database, cache = (
        metrics.object(name) for name in ("memory_usage", "database_metrics", "cache_metrics")
    )
    facts = {
        "memory": {"peak_rss": _bytes(memory, "peak_memory"), "rss_delta": _bytes(memory, "memory_delta")},
        "database": {"count": database.count("query_count"), "duration": database.seconds("query_time")},
        "cache": {
            "hits": cache.count("cache_hits"),
            "misses": cache.count("cache_misses"),
            "duration": cache.seconds("cache_time"),
        },
        "runtime": {
            "framework": _process(record).text("framework_version", limit=_MAX_NAME_CHARACTERS) or None
        },
    }
    known = {
        name: members
        for name, values in facts.items()
        if (members := {key: value for key, value in values.items() if value is not None})
    }
    return json.dumps(known) if known else ""


def _bytes(memory: Fields, name: str) -> int | None:
    megabytes = memory.number(name, highest=_MAX_MEGABYTES, remedy="send megabytes as a number of 0 or more")
    return None if megabytes is None else round(megabytes * _BYTES_PER_MEGABYTE)
