"""What went wrong with one request, by reason: the text of a partial success, the input of the counters."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MAX_MESSAGE_BYTES = 1_024


@dataclass(slots=True)
class Outcome:
    """Spans refused and warnings given, counted by reason (short snake_case names, see docs/receiver.md)."""

    rejected: Counter[str] = field(default_factory=Counter[str])
    warnings: Counter[str] = field(default_factory=Counter[str])

    def reject(self, reason: str, spans: int = 1) -> None:
        if spans:
            self.rejected[reason] += spans

    def warn(self, reason: str) -> None:
        self.warnings[reason] += 1

    @property
    def rejected_spans(self) -> int:
        return self.rejected.total()

    def message(self) -> str:
        """Every reason with its count, most frequent first, at most 1 KiB; "" when nothing happened."""
        parts: list[str] = []
        if self.rejected:
            parts.append("spans rejected: " + _counts(self.rejected))
        if self.warnings:
            parts.append("spans kept with a change: " + _counts(self.warnings))
        return "; ".join(parts).encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")


def place_of(error: Exception) -> str:
    """Type and place of an unexpected error. Its message is left out: it may quote what a sender sent."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common())
