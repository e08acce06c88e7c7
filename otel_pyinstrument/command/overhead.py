"""`otel-pyinstrument overhead`: what profiling costs the user's own application, measured."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_pyinstrument.command.service_settings import CONFIG_FILE_VARIABLE, resolve_service_settings

if TYPE_CHECKING:
    # It has no public name.
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

    from otel_pyinstrument.command.measuring.comparison import Ratio, Row
    from otel_pyinstrument.command.measuring.contender import Result

_DESCRIPTION = """\
Calls a WSGI or ASGI application in this machine's own processes, without a server and without network, and
compares CPU time per request: the application alone, with OpenTelemetry as opentelemetry-instrument sets it
up, profiled with the effective settings, and with every request profiled. Each run has a process of its own,
and the contenders take turns. Nothing is exported. Run it with the service's environment variables."""
_EPILOG = """\
Exit code: 0 when measured, 1 when requests failed (status 500 and above, or exceptions) or a run broke off,
2 when the command was used wrongly or the application cannot be loaded, 130 after Ctrl-C."""


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this subcommand to the parser."""
    parser = commands.add_parser(
        "overhead",
        help="measure what profiling costs your own application",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "target",
        type=_target,
        metavar="MODULE:APP",
        help="the application, as for a server: my_shop.app:app, or my_shop.app:create_app() for a factory",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=_path,
        metavar="PATH",
        help="what is requested with GET, in turns (default: /)",
    )
    parser.add_argument(
        "--app-dir", default=".", metavar="DIR", help="directory to import from (default: this one)"
    )
    parser.add_argument(
        "--interface", choices=("wsgi", "asgi"), help="what the application is (default: found out)"
    )
    parser.add_argument("--requests", type=_count, default=200, help="per run (default: %(default)s)")
    parser.add_argument("--rounds", type=_count, default=5, help="of all contenders (default: %(default)s)")
    parser.add_argument(
        "--warm-up", type=_count, default=20, help="requests before each run (default: %(default)s)"
    )
    parser.add_argument(
        "--concurrency", type=_count, default=1, help="requests at a time, ASGI only (default: %(default)s)"
    )
    parser.add_argument(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="NAME:VALUE",
        help="sent with each request, for example Host:shop.example or Cookie:...; may be repeated",
    )
    parser.add_argument(
        "--timeout", type=_count, default=300, metavar="SECONDS", help="for one run (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure and print; the exit code."""
    from otel_pyinstrument.command.measuring.comparison import compare
    from otel_pyinstrument.command.measuring.contender import NOT_MEASURED, Plan
    from otel_pyinstrument.command.measuring.rounds import CannotRun, RunFailed, measure

    paths = options.paths or ["/"]
    directory = Path(options.app_dir).resolve()
    if not directory.is_dir():
        return _wrong_use(f"--app-dir {options.app_dir} is no directory")
    settings = resolve_service_settings().settings._asdict()
    plan = Plan(
        contender="plain",
        target=options.target,
        directory=str(directory),
        interface=options.interface,
        paths=paths,
        headers=options.header,
        requests=options.requests,
        # At least twice each path: the first request of an endpoint is its slowest.
        warm_up=max(options.warm_up, 2 * len(paths)),
        concurrency=options.concurrency,
        settings={name: value for name, value in settings.items() if name not in NOT_MEASURED},
    )
    progress = _Progress()
    try:
        results = measure(plan, rounds=options.rounds, limit_seconds=options.timeout, progress=progress.show)
    except RunFailed as failed:
        progress.clear()
        sys.stderr.write(f"otel-pyinstrument: {failed}\n")
        return 2 if isinstance(failed, CannotRun) else 1
    except KeyboardInterrupt:
        progress.clear()
        sys.stderr.write("otel-pyinstrument: interrupted\n")
        return 130
    progress.clear()
    rows = compare(results, requests=options.requests)
    write = _write_json if options.json else _write_table
    write(options, rows, results)
    failures = _totals(results, lambda result: result.failures)
    return 1 if any(failures.values()) else 0


class _Progress:
    """One line that is written over on a terminal; a line each elsewhere. On stderr."""

    def __init__(self) -> None:
        self._shown = ""

    def show(self, text: str) -> None:
        if not sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")
        else:
            sys.stderr.write(f"\r{text:{len(self._shown)}}")
            self._shown = text
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(f"\r{'':{len(self._shown)}}\r")
            self._shown = ""


def _write_table(
    options: argparse.Namespace, rows: Sequence[Row], results: Mapping[str, Sequence[Result]]
) -> None:
    from otel_pyinstrument.command.measuring.rounds import CONTENDERS

    first = results["plain"][0]
    at_a_time = f", {options.concurrency} at a time" if options.concurrency > 1 else ""
    out = sys.stdout.write
    out(
        f"{options.target} ({first.interface.upper()}), Python {sys.version.split()[0]}, "
        f"{os.cpu_count()} CPUs: {options.requests} requests{at_a_time}, "
        f"{options.rounds} round{'s' * (options.rounds > 1)}\n\n"
    )
    out(f"{'CPU time per request':26}  {'ms':>9}  {'spread':17}  {'to alone':8}  {'to OpenTelemetry':28}")
    out("  profiled\n")
    for row in rows:
        cpu = row.cpu_milliseconds
        between = f"{cpu.lowest:.3f}..{cpu.highest:.3f}"
        alone = "" if row.to_plain is None else f"x{row.to_plain.spread.median:.3f}"
        shown = "" if row.to_otel is None else _shown_ratio(row.to_otel)
        profiled = f"{row.profiled_share:.1%}" if row.name.startswith("ours") else ""
        line = (
            f"{CONTENDERS[row.name]:26}  {cpu.median:9.3f}  {between:17}  {alone:8}  {shown:28}  {profiled}"
        )
        out(f"{line.rstrip()}\n")
    out("\n")
    for row in rows:
        if row.to_otel is not None:
            out(f"{_sentence(CONTENDERS[row.name], row.to_otel, row)}\n")
    for note in _notes(options, rows, results):
        out(f"note: {note}\n")
    for kind, counts in (
        ("failed", _totals(results, lambda result: result.failures)),
        ("doubtful", _totals(results, lambda result: result.doubts)),
    ):
        for what, by_contender in counts.items():
            many = ", ".join(f"{CONTENDERS[name]}: {count}" for name, count in by_contender.items())
            out(f"{kind}: GET {what} ({many})\n")


def _shown_ratio(ratio: Ratio) -> str:
    median, lowest, highest = ratio.spread
    return f"x{median:.3f} ({lowest:.3f}..{highest:.3f})"


def _sentence(title: str, ratio: Ratio, row: Row) -> str:
    change = (ratio.spread.median - 1) * 100
    if ratio.verdict == "noise":
        return (
            f"{title}: {change:+.1f} %, which is inside the noise: the rounds disagree about its direction. "
            "More requests or rounds, or a quieter machine, would show smaller differences."
        )
    if ratio.verdict == "too few rounds":
        return f"{title}: {change:+.1f} %; too few rounds to tell that from noise (--rounds 5 or more)."
    more = "more" if ratio.verdict == "more" else "less"
    return f"{title}: {abs(change):.1f} % {more} CPU time than with OpenTelemetry alone; all rounds agree."


def _notes(
    options: argparse.Namespace, rows: Sequence[Row], results: Mapping[str, Sequence[Result]]
) -> list[str]:
    notes: list[str] = []
    if any(result.wrapped for rounds in results.values() for result in rounds):
        notes.append(
            "no OpenTelemetry instrumentation makes spans for this application, so the middleware of "
            "otel-pyinstrument did (docs/in-code.md)"
        )
    ours = next(row for row in rows if row.name == "ours")
    if not ours.profiled_share:
        notes.append(
            "none of the measured requests was profiled: the first profiles of an endpoint fall into the "
            "warm-up, and after that a low rate needs more --requests; `otel-pyinstrument config` prints "
            "these settings"
        )
    else:
        notes.append(
            "a process starts with the CPU budget of 10 busy seconds, so a short run profiles, "
            "and costs, more than a service that has run for a while"
        )
    if os.environ.get(CONFIG_FILE_VARIABLE):
        notes.append(
            f"of {CONFIG_FILE_VARIABLE} only the options of pyinstrument hold here: OpenTelemetry is set up "
            "from the variables, without that file's samplers, processors and other instrumentations"
        )
    if ours.cpu_milliseconds.median * options.requests < 500:
        notes.append("a run took less than half a second of CPU time: --requests would make it steadier")
    return notes


def _write_json(
    options: argparse.Namespace, rows: Sequence[Row], results: Mapping[str, Sequence[Result]]
) -> None:
    from otel_pyinstrument.command.measuring.rounds import CONTENDERS

    def ratio(found: Ratio | None) -> dict[str, Any] | None:
        return None if found is None else {**found.spread._asdict(), "verdict": found.verdict}

    document: dict[str, Any] = {
        "target": options.target,
        "interface": results["plain"][0].interface,
        "python": sys.version.split()[0],
        "paths": options.paths or ["/"],
        "requests": options.requests,
        "rounds": options.rounds,
        "concurrency": options.concurrency,
        "contenders": {
            row.name: {
                "title": CONTENDERS[row.name],
                "cpu_ms_per_request": row.cpu_milliseconds._asdict(),
                "wall_ms_per_request": row.wall_milliseconds._asdict(),
                "cpu_ms_per_request_of_rounds": [1e3 * result.cpu_seconds for result in results[row.name]],
                "profiled_share": row.profiled_share,
                "cpu_ratio_to_plain": ratio(row.to_plain),
                "cpu_ratio_to_otel": ratio(row.to_otel),
            }
            for row in rows
        },
        "failures": _totals(results, lambda result: result.failures),
        "doubts": _totals(results, lambda result: result.doubts),
        "notes": _notes(options, rows, results),
    }
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _totals(
    results: Mapping[str, Sequence[Result]], of: Callable[[Result], Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """By what happened, then by contender: how often in all rounds."""
    totals: dict[str, dict[str, int]] = {}
    for name, rounds in results.items():
        for result in rounds:
            for what, count in of(result).items():
                by_contender = totals.setdefault(what, {})
                by_contender[name] = by_contender.get(name, 0) + count
    return totals


def _wrong_use(message: str) -> int:
    sys.stderr.write(f"otel-pyinstrument overhead: error: {message}\n")
    return 2


def _target(text: str) -> str:
    module, colon, attribute = text.partition(":")
    if not module or not colon or not attribute.removesuffix("()"):
        raise argparse.ArgumentTypeError("expected MODULE:APP, for example my_shop.app:app")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise argparse.ArgumentTypeError("expected a path that begins with /, for example /orders?page=2")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable() or not text.isascii():
        raise argparse.ArgumentTypeError("expected NAME:VALUE, for example Host:shop.example")
    return name.strip(), value.strip()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 1000000")
    return int(text)
