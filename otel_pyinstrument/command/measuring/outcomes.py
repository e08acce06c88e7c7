"""What came of the requests of one run."""

from __future__ import annotations

from collections import Counter

_MAX_KINDS = 50
_MAX_CHARACTERS = 200
_FIRST_FAILURE = 500
_FIRST_DOUBT = 400


class Outcomes:
    """Counts by path and kind what was not a success. One thread."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        """Statuses from 500 on, and exceptions."""
        self.doubts: Counter[str] = Counter()
        """Statuses from 400 to 499: the path may not be the one that was meant."""

    def status(self, path: str, code: int) -> None:
        """The application answered."""
        if code >= _FIRST_FAILURE:
            self._count(self.failures, f"{path}: status {code}")
        elif code >= _FIRST_DOUBT:
            self._count(self.doubts, f"{path}: status {code}")

    def error(self, path: str, error: BaseException) -> None:
        """The application raised."""
        self._count(self.failures, f"{path}: {type(error).__name__}: {error}")

    def _count(self, counter: Counter[str], what: str) -> None:
        what = " ".join(what.split())[:_MAX_CHARACTERS]
        counter[what if what in counter or len(counter) < _MAX_KINDS else "others"] += 1
