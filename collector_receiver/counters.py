"""What the receiver did since its start, in one object, and at most one log line a minute about refusals."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from collector_receiver.outcome import Outcome

logger = logging.getLogger("collector_receiver")

REFUSAL_LOG_INTERVAL_SECONDS = 60.0


@dataclass(slots=True)
class Counters:
    """Counts since the start. Used on the receiver's loop only. Reasons are those of docs/receiver.md."""

    requests: Counter[str] = field(default_factory=Counter[str])
    """Requests by answer: ok, partial, or the reason why there was no success."""
    spans_accepted: int = 0
    spans_rejected: Counter[str] = field(default_factory=Counter[str])
    warnings: Counter[str] = field(default_factory=Counter[str])
    log_profiles_accepted: int = 0
    log_profiles_rejected: Counter[str] = field(default_factory=Counter[str])
    new_records: int = 0
    new_profiles: int = 0
    ignored: Counter[str] = field(default_factory=Counter[str])
    """Requests that are answered with nothing to store: metrics, and logs without a profile."""

    def count(self, signal: Literal["traces", "logs"], received: int, outcome: Outcome) -> None:
        """A request that was answered: `received` spans or profiles, less those that were rejected."""
        accepted = received - outcome.rejected_count
        if signal == "traces":
            self.spans_accepted += accepted
            self.spans_rejected.update(outcome.rejected)
        elif received:
            self.log_profiles_accepted += accepted
            self.log_profiles_rejected.update(outcome.rejected)
        else:
            self.ignored["logs"] += 1
        self.requests["partial" if outcome.rejected else "ok"] += 1
        self.warnings.update(outcome.warnings)


class RefusalLog:
    """Collects refusals and writes one warning for all of them, at most once a minute and at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._not_before = clock()

    def note(self, reasons: Counter[str]) -> None:
        self._waiting.update(reasons)
        if self._waiting and self._clock() >= self._not_before:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, if anything is."""
        if not self._waiting:
            return
        self._not_before = self._clock() + REFUSAL_LOG_INTERVAL_SECONDS
        counts = ", ".join(f"{reason} {count}" for reason, count in self._waiting.most_common())
        logger.warning("refused or changed: %s (docs/receiver.md explains each)", counts)
        self._waiting.clear()
