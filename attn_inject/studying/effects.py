"""What a change of the network does to each image, summed up in constant memory, with an interval.

The two runs see the same images, so the interval is that of the mean of paired differences: normal, from n images,
d their differences; for right answers, which are 0 or 1, Agresti and Min's (2005, "Simple improved confidence intervals
for comparing matched proportions"), which stays open where no answer changed. With several sites each interval is as
wide as it takes for all to hold together (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import torch

from ..types import Effect, Measure
from .data import CONFIDENCE, FEWEST_IMAGES


@dataclass
class Differences:
    """Of (N,) values, batch after batch."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: torch.Tensor) -> None:
        values = values.double()
        self.count += len(values)
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def effect(self, measure: Measure, sites: int) -> Effect:
        """The mean with its interval, where `sites` intervals are to hold together."""
        n, mean = self.count, self.mean
        if n < FEWEST_IMAGES:
            return Effect(mean, None, None)
        z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * sites))
        if measure == "accuracy":
            middle = self.total / (n + 2)
            half = z * sqrt(((self.squares + 1) - self.total**2 / (n + 2)) / (n + 2) ** 2)
            return Effect(mean, middle - half, middle + half)
        half = z * sqrt(max(0.0, self.squares / n - mean**2) / (n - 1))
        return Effect(mean, mean - half, mean + half)
