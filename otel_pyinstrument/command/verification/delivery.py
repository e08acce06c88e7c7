"""Checks from the test request in this process to its record on the platform."""

from __future__ import annotations

import time
from typing import Any, cast

from opentelemetry import _logs

from otel_pyinstrument.command.verification.captured_log import CapturedLog
from otel_pyinstrument.command.verification.destination import Destination, send_once
from otel_pyinstrument.command.verification.platform import Platform, PlatformFailed, Project
from otel_pyinstrument.command.verification.profiled_request import (
    WORK_FUNCTION,
    ProfiledRequest,
    make_profiled_request,
)
from otel_pyinstrument.command.verification.provider import Pipeline
from otel_pyinstrument.command.verification.remedies import advice
from otel_pyinstrument.command.verification.report import Report
from otel_pyinstrument.settings import Settings

_SEND_SECONDS = 10.0
_LISTENER_SECONDS = 3.0
_MOST_CLOCK_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 1.0
_OTHER_WAYS = (
    "Does the endpoint belong to this platform, and the key to this project (--project names another)? "
    "Behind a Collector, look at its log, or wait longer with --timeout."
)


def check_test_request(report: Report, pipeline: Pipeline, settings: Settings) -> ProfiledRequest | None:
    """Make a profiled request in this process; None when it has no span or, as a span event, no profile."""
    before = pipeline.processor.gate.decisions()
    request = make_profiled_request(pipeline.provider, interval_seconds=settings.interval_seconds)
    after = pipeline.processor.gate.decisions()
    decisions = [name for name, count in after.items() if count > before[name]]
    if request.span is None:
        report.problem(
            "test request",
            "the sampler drops it, even though its caller was sampled: "
            f"{pipeline.provider.sampler.get_description()}",
            "Only sampled requests are profiled: correct OTEL_TRACES_SAMPLER.",
        )
        return None
    if request.sample_count is not None:
        report.ok("test request", f"profiled, with {request.sample_count} samples")
        return request
    if settings.event == "log" and decisions == ["profiled"]:
        report.ok("test request", "profiled; its profile travels as a log record")
        return request
    report.problem("test request", *_why_unprofiled(decisions))
    return None


def _why_unprofiled(decisions: list[str]) -> tuple[str, str]:
    if decisions == ["budget"]:
        return (
            "not profiled, because the CPU budget does not cover a single request",
            "Raise OTEL_PYINSTRUMENT_CPU_BUDGET.",
        )
    if decisions == ["unavailable"]:
        return (
            "not profiled, because a debugger, profiler or coverage tool has this thread",
            "Run the command without it.",
        )
    if decisions == ["disabled"]:
        return "not profiled, because a rule of the platform says so", "Activate the project there."
    if decisions == ["profiled"]:
        return (
            "profiled, but its span has no room for the profile",
            "Raise OTEL_SPAN_EVENT_COUNT_LIMIT above 0.",
        )
    return (
        f"not profiled ({', '.join(decisions) or 'the processor did not look at it'})",
        "OTEL_SPAN_EVENT_COUNT_LIMIT=0 or an earlier failure can be the reason: see the lines above.",
    )


def check_endpoint(
    report: Report, destination: Destination, request: ProfiledRequest, *, timeout_seconds: float
) -> bool:
    """Send the test request's span there once, without the exporter's retries; whether it was taken."""
    answer = send_once(destination, [request.span], min(timeout_seconds, _SEND_SECONDS))
    if answer.delivered:
        warned = f", and says: {answer.detail}" if answer.detail and answer.code == "OK" else ""
        report.ok("endpoint", f"{destination.address} took the test request{warned}")
        return True
    listener = destination.listener(min(timeout_seconds, _LISTENER_SECONDS))
    report.problem("endpoint", *advice(destination, answer, listener))
    return False


def check_export(report: Report, log: CapturedLog, pipeline: Pipeline, settings: Settings) -> bool:
    """Have the provider export as it does in the service; whether nobody complained."""
    log.take()
    pipeline.provider.force_flush()
    if settings.event == "log":
        flush = getattr(_logs.get_logger_provider(), "force_flush", None)
        if flush is not None:
            flush()
    complaints = [text for text in log.take() if "export" in text.lower()]
    if complaints:
        report.problem(
            "export", "; ".join(complaints), "The endpoint took the same request before: look at its log."
        )
        return False
    report.ok("export", "the provider's exporters sent it without a complaint")
    return True


def check_platform(report: Report, platform: Platform, references: list[tuple[str, str]]) -> bool:
    """That the platform answers, and knows the project by each key; whether it answers.

    `references` are keys, each with the name of where it comes from.
    """
    try:
        projects = {origin: platform.project(key) for origin, key in references}
        if not projects:
            platform.project("-")
    except PlatformFailed as failed:
        report.problem("platform", failed.finding, failed.remedy)
        return False
    report.ok("platform", f"{platform.shown} answers")
    for origin, project in projects.items():
        if project is None:
            report.problem(
                "project key",
                f"the platform knows no project with the key of {origin}",
                "Copy the key from the project's page; after a rotation the old one is void.",
            )
        else:
            report.ok("project key", f"the one of {origin} is of the project {project.name}")
    if len({project.id for project in projects.values() if project is not None}) > 1:
        report.problem(
            "project key",
            f"{' and '.join(projects)} name different projects",
            "Use the same key: rules would come from one project and data go to the other.",
        )
    return True


def check_clock(report: Report, platform: Platform) -> None:
    """This machine's clock against the platform's."""
    offset = platform.clock_offset_seconds
    if offset is None:
        report.unchecked_because("clock", "the platform sends no date")
        return
    shown = f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the platform's"
    if abs(offset) > _MOST_CLOCK_SECONDS:
        report.problem(
            "clock",
            f"this machine's clock is {shown}",
            "Synchronise both (NTP); until then requests appear at wrong times, and rules expire wrongly.",
        )
    else:
        report.ok("clock", "agrees with the platform's" if offset == 0 else shown)


def check_record(
    report: Report,
    platform: Platform,
    reference: str,
    request: ProfiledRequest,
    *,
    is_key: bool,
    timeout_seconds: float,
) -> None:
    """Wait until the platform shows the test request with its profile, and print the link to its page.

    A project may come with the first request that names it, but not with a key.
    """
    begun = time.monotonic()
    pause = _FIRST_PAUSE_SECONDS
    project: Project | None = None
    record: dict[str, Any] | None = None
    try:
        while True:
            project = project or platform.project(reference)
            if project is None and is_key:
                report.unchecked_because("record", "the platform does not know the project's key")
                return
            record = platform.record(project, request.record_id) if project else None
            waited = time.monotonic() - begun
            if (record is not None and record.get("profile")) or waited >= timeout_seconds:
                break
            report.progress(f"waiting for the record, {waited:.0f} of at most {timeout_seconds:g} s ...")
            time.sleep(max(0.0, min(pause, timeout_seconds - waited)))
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
    except PlatformFailed as failed:
        report.problem("record", failed.finding, failed.remedy)
        return
    waited = time.monotonic() - begun
    if project is None:
        report.problem(
            "record",
            f"no project {_shown(reference)} after {waited:.0f} s",
            _OTHER_WAYS,
        )
    elif record is None:
        report.problem(
            "record",
            f"the endpoint took it, but project {project.name} does not show it after {waited:.0f} s",
            _OTHER_WAYS,
        )
    elif not record.get("profile"):
        report.problem(
            "record",
            "it arrived without its profile",
            "Something on the way drops span events or log records, or cuts attributes: look at the "
            "processors of the Collector, and at the warnings on the record's page:",
        )
        report.link(platform.page_of(project, request.record_id))
    else:
        _found(report, record, waited)
        report.link(platform.page_of(project, request.record_id))


def _found(report: Report, record: dict[str, Any], waited: float) -> None:
    if _shows(record.get("function_calls") or [], WORK_FUNCTION):
        report.ok("record", f"found on the platform after {waited:.1f} s, with its call tree:")
    else:
        report.problem(
            "record",
            f"its call tree does not show {WORK_FUNCTION}",
            "Report this as a mistake of otel-pyinstrument, with the record.",
        )


def _shows(calls: list[Any], function: str) -> bool:
    waiting = list(calls)
    while waiting:
        call: Any = waiting.pop()
        if not isinstance(call, dict):
            return False
        fields = cast("dict[str, Any]", call)
        if fields.get("function") == function:
            return True
        waiting.extend(fields.get("children") or [])
    return False


def _shown(reference: str) -> str:
    return "with the configured key" if reference.startswith("opk_") else f"'{reference}'"
