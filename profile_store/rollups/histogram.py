"""Latencies in buckets of equal relative width, so that any quantile is known within 1 percent.

The buckets of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", VLDB 2019) without its limit on their number: durations between a microsecond and
292 years, all that a span can have, meet at most 1,843 buckets, real endpoints some dozens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

RELATIVE_ERROR = 0.01
"""A quantile differs from the exact one by at most this share of it; below a microsecond by a microsecond."""

GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
"""Each bucket ends at `GAMMA` times the end of the one before; bucket 0 ends at 1 microsecond."""

LN_GAMMA = math.log(GAMMA)

MAX_DURATION_US = 2.0**63 / 1_000
"""The longest span that OTLP's nanoseconds can express."""

MAX_INDEX = math.ceil(math.log(MAX_DURATION_US) / LN_GAMMA)


def bucket_index(duration_us: float) -> int:
    """Bucket `i` holds durations above `GAMMA ** (i - 1)` up to `GAMMA ** i` microseconds; 0 all up to 1."""
    if not duration_us > 1:
        return 0
    return math.ceil(math.log(min(duration_us, MAX_DURATION_US)) / LN_GAMMA)


def bucket_value_us(index: int) -> float:
    """The value in the bucket whose largest relative distance to any other in it is smallest."""
    return 2 * GAMMA**index / (GAMMA + 1) if index > 0 else 1.0


class LatencyHistogram:
    """How many requests fell into which bucket. Merging adds counts, so its order does not matter."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: dict[int, int] = dict(counts or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatencyHistogram) and self._counts == other._counts

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def add(self, index: int, count: int = 1) -> None:
        """Count requests of bucket `index`, see `bucket_index`."""
        self._counts[index] = self._counts.get(index, 0) + count

    def merge(self, other: LatencyHistogram) -> None:
        """Add the counts of another histogram to this one."""
        counts = self._counts
        for index, count in other._counts.items():
            counts[index] = counts.get(index, 0) + count

    def quantile_us(self, share: float) -> float | None:
        """The smallest latency that at least `share` (0 to 1) of the requests do not exceed: nearest rank.

        None without requests. Within `RELATIVE_ERROR` of the exact one.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}: a quantile is between 0 and 1")
        remaining = max(1, math.ceil(share * self.count))
        for index in sorted(self._counts):
            remaining -= self._counts[index]
            if remaining <= 0:
                return bucket_value_us(index)
        return None

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """(above, up to, count) of each bucket that is not empty, in microseconds, in order."""
        for index in sorted(self._counts):
            yield (GAMMA ** (index - 1) if index else 0.0), GAMMA**index, self._counts[index]

    def as_pairs(self) -> list[int]:
        """[index, count, distance to the next index, count, ...]: small numbers, which compress well."""
        pairs: list[int] = []
        previous = 0
        for index in sorted(self._counts):
            pairs += (index - previous, self._counts[index])
            previous = index
        return pairs

    @classmethod
    def from_pairs(cls, pairs: Iterable[int]) -> LatencyHistogram:
        """The inverse of `as_pairs`."""
        histogram = cls()
        numbers = iter(pairs)
        index = 0
        for distance, count in zip(numbers, numbers, strict=True):
            index += distance
            histogram._counts[index] = count
        return histogram
