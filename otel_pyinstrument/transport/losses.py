"""What the spool had to give up, counted and said now and then."""

from __future__ import annotations

import time
from logging import getLogger

_logger = getLogger(__name__)

_SECONDS_BETWEEN_WARNINGS = 60.0


class Losses:
    """Counts by reason. The first loss is logged at once, later ones at most once a minute. Any thread."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.size_bytes: dict[str, int] = {}
        self._silent_until: dict[str, float] = {}

    def count(self, reason: str, requests: int, size_bytes: int) -> None:
        self.requests[reason] = self.requests.get(reason, 0) + requests
        self.size_bytes[reason] = self.size_bytes.get(reason, 0) + size_bytes
        now = time.monotonic()
        if now < self._silent_until.get(reason, 0.0):
            return
        self._silent_until[reason] = now + _SECONDS_BETWEEN_WARNINGS
        _logger.warning(
            "Requests dropped from the spool since the start (%s): %d, %d bytes",
            reason,
            self.requests[reason],
            self.size_bytes[reason],
        )
