"""`otel-pyinstrument verify`: whether profiles of a service with this environment would arrive."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    # It has no public name.
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

    from otel_pyinstrument.command.verification.captured_log import CapturedLog
    from otel_pyinstrument.command.verification.platform import Platform
    from otel_pyinstrument.command.verification.provider import Pipeline
    from otel_pyinstrument.command.verification.report import Report
    from otel_pyinstrument.settings import Settings

_DEFAULT_TIMEOUT_SECONDS = 30.0
_KEY_HEADER = "x-project-key"
_KEY_ATTRIBUTE = "project.key"
_DESCRIPTION = """\
Run this where the service runs, with the service's environment variables. It sets OpenTelemetry up as
opentelemetry-instrument does, checks each step on the way of a profile, sends one profiled test request as
the service (endpoint GET /otel-pyinstrument/verify), and finds it again on the platform. What the service's
own code configures is not seen. `opentelemetry-instrument ... otel-pyinstrument verify` works too."""
_EPILOG = "Exit code: 0 when nothing is wrong, 1 when something is, 2 when the command was used wrongly."


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this subcommand to the parser."""
    parser = commands.add_parser(
        "verify",
        help="test an integration end to end and say what is wrong",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--platform-url",
        type=_web_address,
        metavar="URL",
        help="address of the platform, where the test request is looked for "
        "(default: OTEL_PYINSTRUMENT_PLATFORM_URL)",
    )
    parser.add_argument(
        "--project",
        metavar="PROJECT",
        help="key, id or name of the project there (default: the project's key from the environment, else "
        "the service's name)",
    )
    parser.add_argument(
        "--token-file",
        type=_first_line,
        metavar="FILE",
        help="file with the platform's ADMIN_TOKEN, which it asks for when it does not listen on loopback",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=_DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for the test request to appear on the platform (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one line per check. Ends the process by itself, see below."""
    from otel_pyinstrument.command.verification.captured_log import CapturedLog

    # Before gRPC is loaded: what its C library writes to stderr is said in the lines of the checks.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # To the end of the process: exporters' threads go on complaining while it ends.
    with CapturedLog() as log:
        try:
            code = verify(options, log)
        except KeyboardInterrupt:
            sys.stderr.write("\notel-pyinstrument: interrupted\n")
            code = 130
        sys.stdout.flush()
        sys.stderr.flush()
        # Exporters that auto-instrumentation has made would retry at exit what could not be delivered;
        # what matters has been exported.
        os._exit(code)


def verify(options: argparse.Namespace, log: CapturedLog) -> int:
    """The exit code: 1 when a check found a problem, else 0."""
    # The SDK takes half a second to load, and other commands do not need it.
    from otel_pyinstrument.command.verification import delivery, installation
    from otel_pyinstrument.command.verification.report import Report

    report = Report()
    installation.check_versions(report)
    installation.check_private_names(report)
    installation.check_frameworks(report)
    settings, pipeline = _set_up(report, log)
    installation.check_django(report)
    platform = _platform(options, settings)
    is_there = False
    if platform is None:
        for title in ("platform", "clock", "record"):
            report.unchecked_because(title, "set OTEL_PYINSTRUMENT_PLATFORM_URL or --platform-url")
    else:
        is_there = delivery.check_platform(report, platform, _keys(settings, pipeline))
        if is_there:
            delivery.check_clock(report, platform)
    if pipeline is not None:
        reachable = platform if is_there else None
        _follow_a_request(report, log, options, settings, pipeline, reachable)
    if report.problems:
        report.note("result", f"{report.problems} problem{'s' * (report.problems > 1)}")
    elif report.unchecked:
        report.note("result", "nothing is wrong as far as it could be checked")
    else:
        report.ok("result", "everything works")
    return 1 if report.problems else 0


def _set_up(report: Report, log: CapturedLog) -> tuple[Settings, Pipeline | None]:
    from otel_pyinstrument.command.verification import provider as checks

    settings = checks.check_settings(report, log)
    provider = checks.check_provider(report, log)
    if provider is None:
        return settings, None
    processor = checks.check_processor(report, log, provider, settings)
    destinations = checks.check_exporters(report, provider, settings)
    if processor is None:
        return settings, None
    return settings, checks.Pipeline(provider, processor, destinations)


def _follow_a_request(
    report: Report,
    log: CapturedLog,
    options: argparse.Namespace,
    settings: Settings,
    pipeline: Pipeline,
    platform: Platform | None,
) -> None:
    from otel_pyinstrument.command.verification import delivery
    from otel_pyinstrument.command.verification.provider import service_name

    request = delivery.check_test_request(report, pipeline, settings)
    if request is None:
        return
    taken = [
        delivery.check_endpoint(report, destination, request, timeout_seconds=options.timeout)
        for destination in pipeline.destinations
    ]
    if not taken or not all(taken):
        return
    _say_who_sends(report, pipeline)
    if not delivery.check_export(report, log, pipeline, settings) or platform is None:
        return
    key = "" if options.project else _project_key(settings, pipeline)
    reference = options.project or key or service_name(pipeline.provider)
    delivery.check_record(
        report, platform, reference, request, is_key=bool(key), timeout_seconds=options.timeout
    )


def _say_who_sends(report: Report, pipeline: Pipeline) -> None:
    if keys := _sent_keys(pipeline):
        report.ok("project key", f"sent with {' and '.join(keys)}, and the endpoint took it")
    else:
        report.note("project key", "none is sent; a receiver in open mode goes by the service's name")


def _sent_keys(pipeline: Pipeline) -> dict[str, str]:
    """The keys that travel with the data, by where they come from."""
    keys = {
        f"the header {_KEY_HEADER}": destination.headers[_KEY_HEADER]
        for destination in pipeline.destinations
        if _KEY_HEADER in destination.headers
    }
    if attribute := pipeline.provider.resource.attributes.get(_KEY_ATTRIBUTE):
        keys[f"the resource attribute {_KEY_ATTRIBUTE}"] = str(attribute)
    return keys


def _keys(settings: Settings, pipeline: Pipeline | None) -> list[tuple[str, str]]:
    keys = _sent_keys(pipeline) if pipeline is not None else {}
    if settings.project_key:
        keys["OTEL_PYINSTRUMENT_PROJECT_KEY"] = settings.project_key
    return list(keys.items())


def _project_key(settings: Settings, pipeline: Pipeline) -> str:
    """The first one: the header wins over the attribute at the receiver, and comes first."""
    return next(filter(None, [*_sent_keys(pipeline).values(), settings.project_key]), "")


def _platform(options: argparse.Namespace, settings: Settings) -> Platform | None:
    from otel_pyinstrument.command.verification.platform import Platform

    url = options.platform_url or settings.platform_url
    return Platform(url, token=options.token_file or "") if url else None


def _web_address(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in text or not text.isprintable():
        raise argparse.ArgumentTypeError("expected an address like http://127.0.0.1:8000")
    return text.strip().rstrip("/")


def _first_line(path: str) -> str:
    try:
        token = Path(path).read_text("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    if not token or not token.isprintable() or not token.isascii():
        raise argparse.ArgumentTypeError(f"{path} holds no token in its first line")
    return token


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError("expected a number of seconds, above 0 and up to 3600")
    return seconds
