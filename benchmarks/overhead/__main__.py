"""What profiling costs: CPU time of whole applications, as a ratio to OpenTelemetry alone in the same run.

    make bench
    .venv/bin/python -m benchmarks.overhead --python 3.13 --application flask --only otel default

Contenders other than ours and bare pyinstrument live in `.bench/<version>`, which `make bench` makes.
Without `--python` the interpreter that runs this is measured. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.overhead import sink, startup, worker
from benchmarks.overhead.applications import APPLICATIONS
from benchmarks.overhead.contenders import BASE, BY_NAME, CONTENDERS, Contender
from benchmarks.overhead.interpreters import Interpreter
from benchmarks.overhead.turns import Measured, Sink, compare

OTHERS = ("pyroscope", "sentry", "ddtrace", "splunk")


def main() -> None:
    """Print the tables, or be one of the processes that are measured."""
    options = _options()
    if options.sink:
        sink.serve()
    elif options.work:
        worker.work(*options.work)
    else:
        interpreters = [Interpreter.of_version(version) for version in options.python]
        for interpreter in interpreters or [Interpreter.at(Path(sys.executable))]:
            _measure(interpreter, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", nargs="+", default=[], help="versions in .bench/, such as 3.13")
    parser.add_argument("--application", nargs="+", choices=list(APPLICATIONS), default=list(APPLICATIONS))
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="NAME")
    parser.add_argument("--processes", type=int, default=4, help="of each contender, one after another")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each process")
    parser.add_argument("--turn", type=float, default=0.12, help="seconds of CPU time of a turn")
    parser.add_argument("--quick", action="store_true", help="few requests: shows that it works, not what is")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.processes, options.rounds, options.turn = 1, 2, 0.01
    if BASE not in options.only:
        options.only.append(BASE)
    return options


def _measure(interpreter: Interpreter, options: argparse.Namespace) -> None:
    asked = [contender for contender in CONTENDERS if contender.name in options.only]
    places = {contender: interpreter.for_contender(contender) for contender in asked}
    present = {contender: place for contender, place in places.items() if place is not None}
    absent = [contender for contender in asked if contender not in present]
    servers = Sink(interpreter)
    try:
        print(f"\n# Python {interpreter.version}")
        for application in options.application:
            measured, requests = compare(
                application,
                present,
                servers.ports,
                processes=options.processes,
                rounds=options.rounds,
                turn_seconds=options.turn,
            )
            turns = f"{options.processes} processes, {options.rounds} turns of {requests} requests each"
            print(f"\n## {application}: {turns}\n")
            _print_table(measured, requests, absent)
            _print_targets(measured)
        start = startup.measure_start(interpreter, servers.ports, runs=2 if options.quick else 11)
        print("\n## start\n")
        _print_target("CPU ms of `import otel_pyinstrument`", start.package * 1e3, 20)
        _print_target("CPU ms of all imports of a profiled process", start.imports * 1e3, 20)
        print(f"- CPU ms of these that pyinstrument takes: {start.pyinstrument * 1e3:.0f}")
        print(
            f"- CPU ms added to the {start.without_us * 1e3:.0f} ms of a process under OTel: "
            f"{start.added * 1e3:.0f}"
        )
    finally:
        servers.stop()


def _print_table(measured: dict[str, Measured], requests: int, absent: Sequence[Contender]) -> None:
    print(
        f"| {'contender':60} | CPU ms/request | CPU ratio | ± error | median | resident MB | profiles "
        "| estimated/measured |"
    )
    print(f"|{'-' * 62}|---:|---:|---:|---:|---:|---:|---:|")
    base = measured[BASE]
    for contender in CONTENDERS:
        if contender.name not in measured:
            continue
        mine = measured[contender.name]
        title = f"{contender.title} ({mine.version})" if mine.version else contender.title
        ratio, error = mine.ratio_to(base)
        cost = sum(mine.cpu_seconds) - sum(base.cpu_seconds)
        estimate = f"{sum(mine.estimated_seconds) / cost:.2f}" if contender.ours and cost > 0 else ""
        milliseconds = sum(mine.cpu_seconds) / len(mine.cpu_seconds) / requests * 1e3
        print(
            f"| {title:60} | {milliseconds:14.2f} | {ratio:9.3f} | {error:7.3f} "
            f"| {mine.median_ratio_to(base):6.3f} | {mine.resident_bytes / 1e6:11.0f} "
            f"| {mine.decisions.get('profiled', ''):>8} | {estimate:>18} |"
        )
    for contender in absent:
        print(f"| {contender.title:60} | absent: {contender.distribution} is not installed |")


def _print_targets(measured: dict[str, Measured]) -> None:
    print()
    base = measured[BASE]
    for name, limit in {"not_chosen": 1.02, "no_budget": 1.02, "default": 1.03}.items():
        if name in measured:
            _print_target(f"{BY_NAME[name].title}: CPU ratio", measured[name].ratio_to(base)[0], limit)
    others = [measured[name].ratio_to(base)[0] for name in OTHERS if name in measured]
    if "default" in measured and others:
        ours = measured["default"].ratio_to(base)[0]
        _print_target("ours, default settings: CPU ratio, against the cheapest other", ours, min(others))
    if "all" in measured and "pyinstrument" in measured:
        ratio, _ = measured["all"].ratio_to(measured["pyinstrument"])
        _print_target("ours, every request: CPU ratio to bare pyinstrument", ratio, 1.05)
    if "all" in measured and "pyinstrument_json" in measured:
        ratio, _ = measured["all"].ratio_to(measured["pyinstrument_json"])
        print(f"- ours, every request: CPU ratio to bare pyinstrument that writes JSON {ratio:.3g}")
    if "tenth" in measured:
        # Where all requests are profiled there is nothing that the gate could compare them with.
        mine = measured["tenth"]
        cost = sum(mine.cpu_seconds) - sum(base.cpu_seconds)
        off = abs(sum(mine.estimated_seconds) / cost - 1) if cost > 0 else math.nan
        _print_target(f"{BY_NAME['tenth'].title}: the gate's estimate is off by", off, 0.3)
        if "not_chosen" in measured:
            other = measured["not_chosen"]
            profiles = sum(mine.cpu_seconds) - sum(other.cpu_seconds)
            estimated = sum(mine.estimated_seconds) - sum(other.estimated_seconds)
            estimate = estimated / profiles if profiles > 0 else math.nan
            print(f"- of what it costs above no request chosen, the gate's estimate is {estimate:.2f}")
    if "default" in measured:
        more = (measured["default"].resident_bytes - base.resident_bytes) / 1e6
        _print_target("ours, default settings: resident MB more", more, 15)


def _print_target(what: str, value: float, limit: float) -> None:
    print(f"- {'met   ' if value <= limit else 'MISSED'} {what} {value:.3g}, limit {limit:.3g}")


if __name__ == "__main__":
    main()
