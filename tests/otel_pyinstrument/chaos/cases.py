"""The private names that we rely on, by library, and what becomes of an application without them.

A file of tests for each: in a run in several processes the tests of one file stay together.
"""

from __future__ import annotations

from dataclasses import dataclass

OFF = "profiling is off, with one warning"
LESS = "a feature is off, with one warning"
SAME = "there is another way, or nothing but a detail of a profile is missing"

FLASK, FASTAPI, LOGS = "flask", "fastapi", "flask with log events"
SPOOL_HTTP, SPOOL_GRPC = "flask with a spool, http", "flask with a spool, grpc"
PROFILES = {FLASK: 7, FASTAPI: 4, LOGS: 7, SPOOL_HTTP: 7, SPOOL_GRPC: 7}


@dataclass(frozen=True)
class Case:
    """A name that the packages `where` have no more, what runs, and what becomes of it."""

    name: str
    where: tuple[str, ...]
    scenario: str
    effect: str
    missing: str = ""
    """A file that the profile's facts name otherwise."""

    def __str__(self) -> str:
        return f"{self.name} in {self.where[0]}, {self.scenario}"


OTEL, PYINSTRUMENT, SAMPLER = ("opentelemetry",), ("pyinstrument",), ("pyinstrument.stack_sampler",)
JINJA, DJANGO, ASGIREF = ("jinja2",), ("django.template",), ("asgiref",)
ANYIO = ("anyio", "starlette", "fastapi")
UVICORN = ("uvicorn",)

NAMES_OF_OPENTELEMETRY = [
    Case("_RUNTIME_CONTEXT", OTEL, FLASK, SAME),
    Case("_current_context", OTEL, FLASK, SAME),
    Case("_events", OTEL, FLASK, OFF),
    Case("_limits", OTEL, FLASK, OFF),
    Case("_on_ending", OTEL, FLASK, SAME),
    Case("_active_span_processor", OTEL, FLASK, OFF),
    Case("_span_processors", OTEL, FLASK, OFF),
    Case("_lock", OTEL, FLASK, OFF),
    Case("_is_instrumented_by_opentelemetry", OTEL, FLASK, SAME),
    Case("span_exporter", OTEL, FLASK, SAME),
    Case("_batch_processor", OTEL, FLASK, SAME),
    Case("_exporter", OTEL, FLASK, SAME),
    Case("_max_request_size", OTEL, FLASK, SAME),
    Case("BoundedList", OTEL, FLASK, SAME),
    Case("_attributes", OTEL, FLASK, SAME),
    Case("_dict", OTEL, FLASK, SAME),
    Case("_context", OTEL, FLASK, SAME),
    Case("_parent", OTEL, FLASK, SAME),
    Case("_instrumentation_scope", OTEL, FLASK, SAME),
    Case("_start_time", OTEL, FLASK, SAME),
    Case("_end_time", OTEL, FLASK, SAME),
    Case("_kind", OTEL, FLASK, OFF),
    Case("_status", OTEL, FLASK, SAME),
    Case("_status_code", OTEL, FLASK, SAME),
    Case("_client", OTEL, FLASK, SAME),
]

NAMES_OF_EXPORTERS = [
    Case("_batch_processor", OTEL, LOGS, LESS),
    Case("_exporter", OTEL, LOGS, LESS),
    Case("_multi_log_record_processor", OTEL, LOGS, LESS),
    Case("_log_record_processors", OTEL, LOGS, LESS),
    Case("ReadWriteLogRecord", OTEL, LOGS, SAME),
    Case("LogRecordExportResult", OTEL, LOGS, LESS),
    Case("encode_logs", OTEL, LOGS, SAME),
    Case("_translate_data", OTEL, SPOOL_GRPC, SAME),
    Case("_shutdown", OTEL, SPOOL_HTTP, SAME),
    Case("_endpoint", OTEL, SPOOL_HTTP, LESS),
    Case("_endpoint", OTEL, SPOOL_GRPC, LESS),
    Case("_timeout", OTEL, SPOOL_HTTP, SAME),
    Case("_timeout", OTEL, SPOOL_GRPC, SAME),
    Case("_client", OTEL, SPOOL_HTTP, LESS),
    Case("_transport", OTEL, SPOOL_HTTP, LESS),
    Case("_compress", OTEL, SPOOL_HTTP, LESS),
    Case("_headers", OTEL, SPOOL_HTTP, LESS),
    Case("_headers", OTEL, SPOOL_GRPC, LESS),
    Case("_insecure", OTEL, SPOOL_GRPC, LESS),
    Case("_credentials", OTEL, SPOOL_GRPC, LESS),
    Case("_compression", OTEL, SPOOL_GRPC, LESS),
    Case("_channel_options", OTEL, SPOOL_GRPC, SAME),
    Case("_request_serializer", ("grpc",), SPOOL_GRPC, SAME),
]
"""Of OpenTelemetry too: its log events, and the exporters behind a spool."""

NAMES_OF_PYINSTRUMENT = [
    Case("get_stack_sampler", PYINSTRUMENT, FLASK, OFF),
    Case("thread_locals", PYINSTRUMENT, FLASK, OFF),
    Case("IGNORE_OVERHEAD_WARNING", PYINSTRUMENT, FLASK, SAME),
    Case("StackSampler", PYINSTRUMENT, FLASK, OFF),
    Case("StackSamplerSubscriber", PYINSTRUMENT, FLASK, OFF),
    Case("async_state", PYINSTRUMENT, FLASK, OFF),
    Case("_update", PYINSTRUMENT, FLASK, OFF),
    Case("subscribe", PYINSTRUMENT, FLASK, OFF),
    Case("desired_interval", PYINSTRUMENT, FLASK, OFF),
    Case("use_async_context", PYINSTRUMENT, FLASK, OFF),
    Case("unsubscribe", PYINSTRUMENT, FLASK, OFF),
    Case("subscribers", PYINSTRUMENT, FLASK, OFF),
    Case("target", SAMPLER, FLASK, OFF),
    Case("current_sampling_interval", PYINSTRUMENT, FLASK, OFF),
    Case("last_profile_time", PYINSTRUMENT, FLASK, OFF),
    Case("get_frame_info", PYINSTRUMENT, FLASK, OFF),
    Case("bound_to_async_context", PYINSTRUMENT, FLASK, OFF),
    Case("use_timing_thread", PYINSTRUMENT, FLASK, OFF),
    Case("timer_func", PYINSTRUMENT, FLASK, OFF),
    Case("_start_sampling", PYINSTRUMENT, FLASK, SAME),
    Case("_sample", SAMPLER, FLASK, OFF),
    Case("walltime_coarse_resolution", PYINSTRUMENT, FLASK, OFF),
    Case("setstatprofile", PYINSTRUMENT, FLASK, OFF),
]

NAMES_OF_OTHERS = [
    Case("__jinja_template__", JINJA, FLASK, SAME),
    Case("get_corresponding_lineno", JINJA, FLASK, SAME),
    Case("render_annotated", DJANGO, FLASK, SAME, missing="django.html"),
    Case("origin", DJANGO, FLASK, SAME, missing="django.html"),
    Case("token", DJANGO, FLASK, SAME, missing="django.html"),
    Case("lineno", DJANGO, FLASK, SAME, missing="django.html"),
    Case("run_sync", ANYIO, FASTAPI, LESS),
    Case("SyncToAsync", ASGIREF, FASTAPI, LESS),
    Case("AsyncToSync", ASGIREF, FASTAPI, LESS),
    Case("func", ASGIREF, FASTAPI, LESS),
    Case("awaitable", ASGIREF, FASTAPI, LESS),
    Case("shutdown", UVICORN, FASTAPI, LESS),
    Case("_captured_signals", UVICORN, FASTAPI, SAME),
    Case("force_exit", UVICORN, FASTAPI, SAME),
]

MODULES_OF_PYINSTRUMENT = [
    ("pyinstrument.stack_sampler", FLASK, OFF),
    ("pyinstrument.low_level.stat_profile", FLASK, OFF),
    ("pyinstrument", FLASK, OFF),
]
MODULES_OF_OPENTELEMETRY = [
    ("opentelemetry._logs", FLASK, SAME),
    ("opentelemetry.exporter.otlp.proto.common._log_encoder", FLASK, SAME),
]

FUNCTIONS = [
    ("pyinstrument.stack_sampler:get_stack_sampler", OFF),
    ("pyinstrument.stack_sampler:StackSampler.subscribe", OFF),
    ("pyinstrument.stack_sampler:StackSampler.unsubscribe", OFF),
    ("pyinstrument.stack_sampler:StackSampler._sample", OFF),
    ("pyinstrument.low_level.stat_profile:setstatprofile", OFF),
    ("pyinstrument.stack_sampler:build_call_stack", OFF),
    ("pyinstrument.low_level.stat_profile:get_frame_info", OFF),
    ("jinja2:Template.get_corresponding_lineno", SAME),
    ("opentelemetry.sdk.util:BoundedList.append", OFF),
]
