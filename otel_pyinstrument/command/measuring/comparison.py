"""What the rounds say: medians, spreads, and whether a difference is more than noise.

The CPU time per request of a contender is the median of its rounds; lowest and highest round are its spread.
A ratio is taken within each round, where both contenders ran on the same machine in the same minutes; the
median of these ratios counts, with lowest and highest beside it. A difference is called real only when all
rounds agree on its direction, in at least five rounds: by chance alone that happens once in 16 times (a
two-sided sign test with 5 rounds, p = 2 / 2**5); otherwise it is inside the noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from otel_pyinstrument.command.measuring.contender import Result

MIN_ROUNDS = 5

Verdict = Literal["more", "less", "noise", "too few rounds"]


class Spread(NamedTuple):
    """Of the values of all rounds."""

    median: float
    lowest: float
    highest: float


class Ratio(NamedTuple):
    """CPU time of one contender to that of another."""

    spread: Spread
    verdict: Verdict


class Row(NamedTuple):
    """One contender. Ratios are None against itself and those that come after it."""

    name: str
    cpu_milliseconds: Spread
    wall_milliseconds: Spread
    profiled_share: float
    to_plain: Ratio | None
    to_otel: Ratio | None


def compare(results: Mapping[str, Sequence[Result]], *, requests: int) -> list[Row]:
    """One row for each contender, in their order. `requests` were measured in each round."""
    return [
        Row(
            name,
            spread([1e3 * result.cpu_seconds for result in rounds]),
            spread([1e3 * result.wall_seconds for result in rounds]),
            sum(result.profiled for result in rounds) / (requests * len(rounds)),
            None if name == "plain" else ratio(rounds, results["plain"]),
            None if name in {"plain", "otel"} else ratio(rounds, results["otel"]),
        )
        for name, rounds in results.items()
    ]


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(rounds: Sequence[Result], base: Sequence[Result]) -> Ratio:
    """Round by round; both have the same number of rounds."""
    ratios = [
        each.cpu_seconds / other.cpu_seconds if other.cpu_seconds else 1.0
        for each, other in zip(rounds, base, strict=True)
    ]
    return Ratio(spread(ratios), verdict(ratios))


def verdict(ratios: Sequence[float]) -> Verdict:
    """Whether the ratios of all rounds are on the same side of 1."""
    if min(ratios) <= 1 <= max(ratios):
        return "noise"
    if len(ratios) < MIN_ROUNDS:
        return "too few rounds"
    return "more" if min(ratios) > 1 else "less"
