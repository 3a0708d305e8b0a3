"""The interval's coverage, exactly from the binomial distribution and by simulation."""

from __future__ import annotations

import random
from statistics import median, quantiles

import pytest

from attn_inject.cost.samples import is_resolved, median_interval, timing


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (5, 1), (6, 1), (10, 2), (12, 3), (15, 4), (30, 10), (100, 40)])
def test_which_order_statistics_bound_the_median(n: int, rank: int) -> None:
    """Ranks for 95 % by the binomial tail (n = 30: P(Bin(30, 1/2) < 10) = 0.0214, < 11: 0.0494)."""
    interval = median_interval(list(range(1, n + 1)))
    assert (interval.low, interval.high) == (rank, n + 1 - rank)
    assert interval.median == median(range(1, n + 1))


def test_too_few_samples_say_how_sure_they_are() -> None:
    assert median_interval([1.0]).confidence == 0.0
    assert median_interval([1.0, 2.0, 3.0]).confidence == pytest.approx(1 - 2 / 8)
    assert median_interval(list(range(30))).confidence == 0.95


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Two thousand seeded samples of 30 from a skewed distribution; 95 % is 100 misses, the ranks' 95.7 % are 86."""
    generator = random.Random(0)
    misses = 0
    for _ in range(2000):
        interval = median_interval([generator.lognormvariate(0, 0.3) for _ in range(30)])
        misses += not interval.low <= 1.0 <= interval.high
    assert 50 <= misses <= 100


def test_quartiles_are_those_of_the_standard_library() -> None:
    values = [random.Random(1).random() for _ in range(23)]
    low, _, high = quantiles(values, n=4, method="inclusive")
    found = timing(values, batch=8, peak_bytes=None)
    assert (found.low_quartile, found.high_quartile) == pytest.approx((low, high))
    assert found.images_per_second == pytest.approx(8 / median(values))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "confidence", "resolved"),
    [
        (1.065, 1.041, 1.090, 0.95, True),
        (0.900, 0.880, 0.930, 0.95, True),
        (1.065, 0.999, 1.090, 0.95, False),  # holds 1
        (1.025, 1.005, 1.045, 0.95, False),  # wider than the effect
        (1.974, 1.900, 2.000, 0.50, False),  # two pairs
        (1.000, 1.000, 1.000, 0.95, False),
    ],
)
def test_what_may_be_claimed(ratio: float, low: float, high: float, confidence: float, *, resolved: bool) -> None:
    assert is_resolved(ratio, low, high, confidence, contended=False) is resolved
    assert not is_resolved(ratio, low, high, confidence, contended=True)


def test_no_samples_no_median() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])
