"""What went wrong with one request, by reason: the text of a partial success, the input of the counters."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MAX_MESSAGE_BYTES = 1_024

logger = logging.getLogger("collector_receiver")


@dataclass(slots=True)
class Outcome:
    """What was refused and warned about, counted by reason (short snake_case names, see docs/receiver.md).

    `item` is what is counted: spans, or log records.
    """

    item: str = "spans"

    rejected: Counter[str] = field(default_factory=Counter[str])
    warnings: Counter[str] = field(default_factory=Counter[str])

    def reject(self, reason: str, spans: int = 1) -> None:
        if spans:
            self.rejected[reason] += spans

    def warn(self, reason: str) -> None:
        self.warnings[reason] += 1

    @property
    def rejected_count(self) -> int:
        return self.rejected.total()

    def message(self) -> str:
        """Every reason with its count, most frequent first, at most 1 KiB; "" when nothing happened."""
        parts: list[str] = []
        if self.rejected:
            parts.append(f"{self.item} rejected: " + _counts(self.rejected))
        if self.warnings:
            parts.append(f"{self.item} kept with a change: " + _counts(self.warnings))
        return "; ".join(parts).encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")


def log_failure(outcome: Outcome, what: str, error: Exception) -> None:
    """Reject one item for a mistake of ours: it must not make the sender repeat, and then lose, the batch."""
    if "internal_error" not in outcome.rejected:
        logger.error("%s was refused, its translation failed: %s", what, place_of(error))
    outcome.reject("internal_error")


def place_of(error: Exception) -> str:
    """Type and place of an unexpected error. Its message is left out: it may quote what a sender sent."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common())
