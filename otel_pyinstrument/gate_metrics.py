"""What the gate decides and costs, as OpenTelemetry metrics."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from otel_pyinstrument.gate import Gate
from otel_pyinstrument.version import __version__

# Plain weak references, see Gate: a WeakSet would run Python while they are being freed.
_gates: list[weakref.ref[Gate]] = []
_providers: list[weakref.ref[MeterProvider]] = []


def report(gate: Gate, meter_provider: MeterProvider | None = None) -> None:
    """Observe `gate` as long as it lives. Requests pay nothing: the numbers are read when they are exported.

    Instruments cannot be removed from a meter, so each provider gets them once, for all gates.
    """
    from opentelemetry.metrics import get_meter_provider

    provider = get_meter_provider() if meter_provider is None else meter_provider
    _gates[:] = [*filter(_is_alive, _gates), weakref.ref(gate)]
    if any(known() is provider for known in _providers):
        return
    _providers[:] = [*filter(_is_alive, _providers), weakref.ref(provider)]
    meter = get_meter("otel_pyinstrument", __version__, meter_provider=provider)
    meter.create_observable_counter(
        "otel_pyinstrument.gate.requests",
        [_requests],
        unit="{request}",
        description="Requests by what the gate decided about profiling them",
    )
    meter.create_observable_counter(
        "otel_pyinstrument.gate.cpu.cost",
        [_cost],
        unit="s",
        description="Estimated CPU time that profiling has cost",
    )
    meter.create_observable_gauge(
        "otel_pyinstrument.gate.cpu.share",
        [_share],
        unit="1",
        description="Estimated share of the process's CPU time that profiling has cost since it began",
    )


def _is_alive(reference: weakref.ref[Any]) -> bool:
    return reference() is not None


def _asked_gates() -> list[Gate]:
    """Those that have decided something.

    A process without requests reports nothing: where the backend is away, each has to wait at its end for an
    export that fails.
    """
    living = [gate for reference in list(_gates) if (gate := reference()) is not None]
    return [gate for gate in living if any(gate.decisions().values())]


def _requests(_options: CallbackOptions) -> Iterable[Observation]:
    total: dict[str, int] = {}
    for gate in _asked_gates():
        for decision, count in gate.decisions().items():
            total[decision] = total.get(decision, 0) + count
    return [Observation(count, {"decision": decision}) for decision, count in total.items()]


def _cost(_options: CallbackOptions) -> Iterable[Observation]:
    costs = [gate.costs() for gate in _asked_gates()]
    if not costs:
        return []
    return [
        Observation(sum(cost.hook for cost in costs), {"part": "hook"}),
        Observation(sum(cost.encoding for cost in costs), {"part": "encoding"}),
        Observation(sum(cost.standing for cost in costs), {"part": "standing"}),
    ]


def _share(_options: CallbackOptions) -> Iterable[Observation]:
    costs = [gate.costs() for gate in _asked_gates()]
    process = max((cost.process for cost in costs), default=0.0)
    if process <= 0:
        return []
    return [Observation(sum(cost.hook + cost.encoding + cost.standing for cost in costs) / process)]
