"""What to do when an exporter could not deliver: by the answer, and by who listens there."""

from __future__ import annotations

from typing import NamedTuple

from otel_pyinstrument.command.verification.destination import INVALID_METADATA, Answer, Destination
from otel_pyinstrument.command.verification.listener import Listener, Speaks

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"

_DOUBTFUL = frozenset(
    {"", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL", "CANCELLED", "400", "426", "505"}
)
"""Codes that need not come from an OTLP receiver."""

_KEY_REMEDY = (
    f"Set {_HEADERS}=x-project-key=<the project's key>, or OTEL_RESOURCE_ATTRIBUTES=project.key=<key> "
    "behind a Collector that several projects share; other backends name their header in their documentation."
)


class Advice(NamedTuple):
    """What was found, and what to do about it."""

    finding: str
    remedy: str


def advice(destination: Destination, answer: Answer, listener: Listener | None) -> Advice:
    """For an answer that was not delivered. `listener` is who was found there, None when nobody looked."""
    known = (_GRPC if destination.protocol == "grpc" else _HTTP).get(answer.code)
    if answer.detail == INVALID_METADATA:
        return Advice(
            f"{_HEADERS} holds a name or value that gRPC cannot send",
            "Write name=value, with commas between pairs; names have no spaces, and values are ASCII.",
        )
    if answer.code in _DOUBTFUL and listener is not None:
        by_listener = _by_listener(destination, answer, listener)
        if by_listener is not None:
            return by_listener
    said = f": {answer.detail}" if answer.detail else ""
    if known is not None:
        return Advice(f"{known.finding} ({answer.code}{said})", known.remedy)
    if answer.code == "OK":
        return Advice(
            f"the receiver refused the test request{said}", "The reasons are explained in docs/receiver.md."
        )
    code = answer.code or "no answer"
    return Advice(
        f"{destination} did not take the test request ({code}{said})",
        "Look at the log of what listens there.",
    )


def _by_listener(destination: Destination, answer: Answer, listener: Listener) -> Advice | None:
    place = f"{destination.host}:{destination.port}"
    is_grpc = destination.protocol == "grpc"
    if listener.speaks is Speaks.UNRESOLVED:
        return Advice(
            f"the host name {destination.host} is not known ({listener.detail})", f"Correct {_ENDPOINT}."
        )
    if listener.speaks is Speaks.REFUSED:
        usual = "4317 for gRPC" if is_grpc else "4318 for HTTP"
        return Advice(
            f"nobody listens on {place}",
            f"Start the receiver or Collector there, or correct {_ENDPOINT}; the usual port is {usual}.",
        )
    if listener.speaks is Speaks.TLS:
        return _about_tls(destination, answer, listener, place)
    if listener.speaks is Speaks.HTTP1 and is_grpc:
        return Advice(
            f"{place} speaks HTTP/1, not gRPC",
            f"Name the gRPC port in {_ENDPOINT} (usually 4317), or set {_PROTOCOL}=http/protobuf.",
        )
    if listener.speaks is Speaks.HTTP2 and not is_grpc and not destination.has_tls:
        return Advice(
            f"{place} speaks gRPC, not HTTP/1",
            f"Name the HTTP port in {_ENDPOINT} (usually 4318), or set {_PROTOCOL}=grpc.",
        )
    if listener.speaks in {Speaks.HTTP1, Speaks.HTTP2} and destination.has_tls:
        return Advice(
            f"{place} does not speak TLS",
            f"Write http:// in front of the address in {_ENDPOINT}; https:// means TLS, and for gRPC so "
            "does an address without either, unless OTEL_EXPORTER_OTLP_INSECURE=true.",
        )
    if listener.speaks in {Speaks.SILENT, Speaks.UNKNOWN}:
        return Advice(
            f"{place} does not answer"
            if listener.speaks is Speaks.SILENT
            else f"{place} speaks neither HTTP nor gRPC",
            f"Look for a firewall or proxy on the way, or correct {_ENDPOINT}.",
        )
    return None


def _about_tls(destination: Destination, answer: Answer, listener: Listener, place: str) -> Advice | None:
    if not destination.has_tls:
        return Advice(
            f"{place} speaks TLS, and the exporter does not",
            f"Write https:// in {_ENDPOINT}; unset OTEL_EXPORTER_OTLP_INSECURE.",
        )
    if listener.detail:
        return Advice(
            f"the certificate of {place} is not trusted ({listener.detail})",
            "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the authority that signed it, and use a "
            "host name that stands in it.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in answer.detail:
        # requests: variables of the environment win over what a session was given.
        return Advice(
            f"the certificate of {place} is not trusted by the exporter",
            "REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE win over OTEL_EXPORTER_OTLP_CERTIFICATE: unset them, or "
            "add the certificate to the file that they name.",
        )
    return None


_TEMPORARY = "Look at its log; when it is only busy, wait and try again."

_UNKNOWN_SENDER = Advice("the receiver does not know who sends: project key missing or wrong", _KEY_REMEDY)
_BEHIND_A_PROXY = Advice(
    "a proxy answers, but not the receiver behind it", "Start the receiver, or correct the proxy."
)

_GRPC = {
    "UNAUTHENTICATED": _UNKNOWN_SENDER,
    "PERMISSION_DENIED": Advice(
        "the receiver knows the sender and does not allow it",
        f"Ask who runs it for permission to send traces, or use another key or token in {_HEADERS}.",
    ),
    "UNIMPLEMENTED": Advice(
        "a gRPC server answers, but it takes no traces",
        f"Correct {_ENDPOINT}: another service listens there, or a Collector without a pipeline for traces.",
    ),
    "RESOURCE_EXHAUSTED": Advice(
        "the receiver has no room for the request: a limit on size, rate or quota",
        "Lower OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES, or raise the limit there (max_recv_msg_size_mib of a "
        "Collector); against a rate limit or quota, lower OTEL_PYINSTRUMENT_RATE.",
    ),
    "UNAVAILABLE": Advice("the receiver answers that it cannot take anything now", _TEMPORARY),
    "DEADLINE_EXCEEDED": Advice(
        "the receiver did not answer in time",
        "Look at its log and at its database; OTEL_EXPORTER_OTLP_TIMEOUT gives it more time.",
    ),
    "INVALID_ARGUMENT": Advice(
        "the receiver cannot read the request", "Look at its log; something on the way may change requests."
    ),
}

_HTTP = {
    "400": Advice("the receiver cannot read the request", "Look at its log."),
    "401": _UNKNOWN_SENDER,
    "403": Advice(
        "the receiver knows the sender and does not allow it",
        f"Ask who runs it for permission to send traces, or use another key or token in {_HEADERS}.",
    ),
    "404": Advice(
        "a web server answers, but it takes no traces at this path",
        f"{_ENDPOINT} is the address without /v1/traces, which is added; the one for traces alone, "
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, is taken as it is.",
    ),
    "405": Advice("a web server answers, but this path takes no POST", f"Correct {_ENDPOINT}."),
    "413": Advice(
        "the request is too large for the receiver",
        "Lower OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES, or raise the limit there (max_request_body_size in a "
        "Collector).",
    ),
    "415": Advice(
        "the receiver takes no protobuf, or no compression", "Unset OTEL_EXPORTER_OTLP_COMPRESSION."
    ),
    "429": Advice(
        "the receiver limits how much it takes", "Wait, lower OTEL_PYINSTRUMENT_RATE, or raise its limit."
    ),
    "502": _BEHIND_A_PROXY,
    "503": Advice("the receiver answers that it cannot take anything now", _TEMPORARY),
    "504": _BEHIND_A_PROXY,
}
