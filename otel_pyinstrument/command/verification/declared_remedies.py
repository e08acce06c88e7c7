"""What to correct where `OTEL_CONFIG_FILE` makes OpenTelemetry ignore its other variables."""

from __future__ import annotations

from otel_pyinstrument.command.service_settings import CONFIG_FILE_VARIABLE, declared_in

# Longer texts before those that they contain.
_FIELDS = {
    "OTEL_SERVICE_NAME": "`service.name` in `resource.attributes`",
    "OTEL_RESOURCE_ATTRIBUTES=project.key=<key>": "`project.key` in `resource.attributes`",
    "Set OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_ENDPOINT": (
        "Add a processor with an OTLP exporter to `tracer_provider`"
    ),
    "Set OTEL_LOGS_EXPORTER=otlp": "Add a processor with an OTLP exporter to `logger_provider`",
    "OTEL_TRACES_SAMPLER": "the `sampler` of `tracer_provider`",
    "OTEL_SPAN_EVENT_COUNT_LIMIT=0": "An `event_count_limit` of 0 in the `limits` of `tracer_provider`",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "`event_count_limit` in the `limits` of `tracer_provider`",
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT is the address without /v1/traces, which is added; the one for traces "
        "alone, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, is taken as it is"
    ): "Write /v1/traces behind the exporter's `endpoint`, which is taken as it is",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "the exporter's `endpoint`",
    "OTEL_EXPORTER_OTLP_HEADERS=x-project-key=<the project's key>": (
        "`x-project-key` in the exporter's `headers`"
    ),
    "OTEL_EXPORTER_OTLP_HEADERS": "the exporter's `headers`",
    "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf": "use `otlp_http`",
    "set OTEL_EXPORTER_OTLP_PROTOCOL=grpc": "use `otlp_grpc`",
    "OTEL_EXPORTER_OTLP_INSECURE=true": "the exporter's `tls` says `insecure: true`",
    "OTEL_EXPORTER_OTLP_INSECURE": "`insecure` in its `tls`",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "`ca_file` in the exporter's `tls`",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "the exporter's `compression`",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "the exporter's `timeout`",
}


def as_declared(remedy: str) -> str:
    """`remedy` with the fields of that file, if there is one, in the place of the variables."""
    path = declared_in()
    if not path:
        return remedy
    declared = remedy
    for variable, field in _FIELDS.items():
        declared = declared.replace(variable, field)
    if declared == remedy:
        return remedy
    return f"{declared} That belongs in {path}: with {CONFIG_FILE_VARIABLE} variables do not count for it."
