"""What a list of timings says: medians and their confidence intervals, without assuming how timings are distributed.

The interval of a median between order statistics: for n samples the k-th smallest and k-th largest value hold the
median between them with probability 1 - 2 P(Binomial(n, 1/2) < k), whatever the distribution (e.g. Conover, Practical
Nonparametric Statistics, 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

# Neighbouring times on one machine are correlated; ratios of models that run in turns are not (tests/bench/RESULTS.md).
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the bounds of its confidence interval; `confidence` is below 95 % where samples are too few."""

    median: float
    low: float
    high: float
    confidence: float


def is_resolved(ratio: float, low: float, high: float, confidence: float, *, contended: bool) -> bool:
    """Whether a ratio may be claimed: its interval is sure enough, does not hold 1, and is no wider than the effect.

    On a machine that other work kept busy (`contended`) none is: the interval is then of both models as they ran beside
    that work, which slows one that waits more often for its threads by more.
    """
    sure = confidence >= CONFIDENCE and not low <= 1 <= high and high - low <= abs(ratio - 1)
    return sure and not contended


@dataclass(frozen=True, slots=True)
class Latency:
    """One model's time over another's, from `pairs` pairs; `contended`: other work kept the machine busy meanwhile."""

    ratio: float
    low: float
    high: float
    confidence: float
    pairs: int
    contended: bool

    @property
    def resolved(self) -> bool:
        """Whether the ratio may be claimed, on a machine that was quiet; else only its interval."""
        return is_resolved(self.ratio, self.low, self.high, self.confidence, contended=self.contended)


def median_interval(samples: Sequence[float]) -> Interval:
    """The median of `samples` with its (conservative) 95 % interval.

    With fewer than six samples, which no order statistics bound so surely, the interval is the whole range, and
    `confidence` says how sure that is. Raises `ValueError` without samples.
    """
    ordered = sorted(samples)
    n = len(ordered)
    if n == 0:
        raise ValueError("a median needs at least one sample")
    rank = 1
    while 2 * (rank + 1) <= n and _coverage(n, rank + 1) >= CONFIDENCE:
        rank += 1
    return Interval(median(ordered), ordered[rank - 1], ordered[n - rank], min(CONFIDENCE, _coverage(n, rank)))


@dataclass(frozen=True, slots=True)
class Timing:
    """One model's latency per batch: median and quartiles, in seconds.

    `peak_bytes` is the most that the allocator held for one batch beside the weights; None on a CPU.
    """

    median: float
    low_quartile: float
    high_quartile: float
    images_per_second: float
    peak_bytes: int | None


def timing(samples: Sequence[float], batch: int, peak_bytes: int | None) -> Timing:
    """Sum up the seconds that batches of `batch` images took."""
    middle = median(samples)
    return Timing(middle, *_quartiles(samples), batch / middle, peak_bytes)


def _quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """The first and third quartile, by linear interpolation between samples."""
    ordered = sorted(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return at(0.25), at(0.75)


def _coverage(n: int, rank: int) -> float:
    return 1 - 2 * sum(comb(n, i) for i in range(rank)) / 2.0**n
