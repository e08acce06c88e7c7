"""What the processes of one receiver counted, in a place where each of them can show it for all.

They share ports, so whoever asks for metrics reaches any of them. Each leaves its samples in a file of the
group's private directory once a second, and shows its own beside those of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric

WRITE_SECONDS = 1.0


class Snapshots:
    """The metrics of all processes. `directory` is None when there is only this one."""

    def __init__(
        self, own: Callable[[], Iterable[Metric]], *, process: int = 0, directory: Path | None = None
    ) -> None:
        self._own = own
        self._directory = directory
        self._file = snapshot_file(directory, process) if directory else None
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write every second, until `stop`; nothing when there is no directory."""
        if self._file is not None:
            self._writing = asyncio.create_task(self._write_on(self._file))

    async def stop(self) -> None:
        """Safe to call again."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})

    def collect(self) -> Iterable[Metric]:
        """The metrics of this process as they are, those of the others as they were a second ago."""
        metrics = {metric.name: metric for metric in self._own()}
        if self._directory is not None:
            for path in sorted(self._directory.glob("*.json")):
                if path != self._file:
                    _add_samples(metrics, path)
        return metrics.values()

    async def _write_on(self, path: Path) -> None:
        part = path.with_suffix(".part")
        while True:
            samples = [
                (metric.name, sample.name, sample.labels, sample.value)
                for metric in self._own()
                for sample in metric.samples
            ]
            with contextlib.suppress(OSError):  # a full disk is no reason to stop serving
                part.write_text(json.dumps(samples), "utf-8")
                os.replace(part, path)
            await asyncio.sleep(WRITE_SECONDS)


def snapshot_file(directory: Path, process: int) -> Path:
    """Where process number `process` leaves its samples; who starts it removes them when it is gone."""
    return directory / f"{process}.json"


def _add_samples(metrics: dict[str, Metric], path: Path) -> None:
    try:
        samples = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:  # its process ended a moment ago
        return
    for family, name, labels, value in samples:
        if family in metrics:
            metrics[family].add_sample(name, labels, value)
