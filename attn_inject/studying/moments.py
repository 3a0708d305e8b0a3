"""Running moments of values per channel, in constant memory: all images, and by class.

    mean' = mean + delta n_b / n,   M2' = M2 + M2_b + delta^2 n_a n_b / n,   delta = mean_b - mean

(Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979), in float64.
"""

from __future__ import annotations

import torch

# So many classes are followed, in the order in which they come: 1000 of them would take 120 MB in a ResNet-50.
MOST_CLASSES = 64


class Moments:
    """Of (N, C) values, batch after batch; values that are not finite are left out, each channel by itself."""

    def __init__(self, channels: int) -> None:
        self.count = torch.zeros(channels, dtype=torch.float64, device="cpu")
        self.mean = torch.zeros(channels, dtype=torch.float64, device="cpu")
        self.m2 = torch.zeros(channels, dtype=torch.float64, device="cpu")

    def add(self, values: torch.Tensor) -> None:
        known = values.isfinite()
        count = known.sum(0).double()
        mean = torch.where(known, values, 0.0).sum(0) / count.clamp(min=1)
        m2 = torch.where(known, values - mean, 0.0).square().sum(0)
        total = self.count + count
        share = count / total.clamp(min=1)
        delta = mean - self.mean
        self.m2 += m2 + delta.square() * self.count * share
        self.mean += delta * share
        self.count = total

    @property
    def known(self) -> torch.Tensor:
        """(C,): which channels have a value."""
        return self.count > 0

    @property
    def variance(self) -> torch.Tensor:
        """(C,): over the values, as they are all that is described."""
        return self.m2 / self.count.clamp(min=1)


class ClassMoments:
    """Of (N, C) values with a class each: how much of the spread lies between classes."""

    def __init__(self, channels: int) -> None:
        self._rows: dict[int, int] = {}
        # All rows at once: memory is taken when a row is written, and is not moved as classes come.
        self._count = torch.zeros(MOST_CLASSES, channels, dtype=torch.float32, device="cpu")
        self._sum = torch.zeros(MOST_CLASSES, channels, dtype=torch.float64, device="cpu")
        self._squares = torch.zeros(channels, dtype=torch.float64, device="cpu")
        self._shift: torch.Tensor | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """Those that were followed, in ascending order."""
        return tuple(sorted(self._rows))

    def add(self, values: torch.Tensor, labels: torch.Tensor) -> None:
        """(N, C) values of the classes (N,)."""
        for label in dict.fromkeys(labels.tolist()):
            if label not in self._rows and len(self._rows) < MOST_CLASSES:
                self._rows[label] = len(self._rows)
        rows = torch.tensor([self._rows.get(label, -1) for label in labels.tolist()], device="cpu")
        values, rows = values[rows >= 0], rows[rows >= 0]
        known = values.isfinite()
        if self._shift is None:
            # Squares of what is close to zero keep their digits.
            self._shift = torch.where(known, values, 0.0).sum(0) / known.sum(0).clamp(min=1)
        centred = torch.where(known, values - self._shift, 0.0)
        self._sum.index_add_(0, rows, centred)
        self._count.index_add_(0, rows, known.float())
        self._squares += centred.square().sum(0)

    @property
    def means(self) -> torch.Tensor:
        """(K, C): the mean of each class, in the order of `classes`."""
        shift = self._shift if self._shift is not None else torch.zeros((), device="cpu")
        return (self._sum / self._count.clamp(min=1) + shift)[[self._rows[label] for label in self.classes]]

    def parts(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(between, total), each (C,): the sum of squares between classes less what chance puts there, and in all.

        Their quotient is epsilon squared (Kelley 1935): 1 - (SSW / (n - K)) / (SST / (n - 1)). None where there are
        not two classes, or not two images of each on the average.
        """
        n, k = self._count.double().sum(0), len(self._rows)
        if k < 2 or float(n.max()) < 2 * k:
            return None
        by_class = (self._sum.square() / self._count.clamp(min=1)).sum(0)
        total = self._squares - self._sum.sum(0).square() / n.clamp(min=1)
        within = (self._squares - by_class).clamp(min=0)
        chance = (k - 1) * within / (n - k).clamp(min=1)
        return (total - within - chance).clamp(min=0), total.clamp(min=0)
