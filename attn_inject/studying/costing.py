"""What it costs to freeze gates to their means: on data in two parts, one to look at and one that is kept aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import ceil
from typing import Any
from warnings import warn

from torch import nn

from ..errors import AttnInjectError
from ..types import Measure
from .ablation import frozen
from .data import FEWEST_IMAGES
from .effects import Differences
from .feeds import MOST_BYTES, Batch, Feed
from .quiet import exchanged, run
from .scoring import Scoring, change
from .study import placed
from .watching import Watched


class Halves:
    """The data in two parts, batch by batch.

    What can be gone through only once, or comes in another order each time, is kept up to a bound: no image that was
    looked at may be among those that are kept aside.
    """

    def __init__(self, data: Iterable[Any], batches: int | None, model: nn.Module) -> None:
        feed = data if isinstance(data, Feed) else Feed(data)
        self.classes = feed.classes
        self._model = model
        self._held: list[Batch] | None = None
        self._feed, self._batches = feed, batches
        if feed.is_single or feed.is_shuffled:
            self._held, size = [], 0
            for batch in feed.first(batches):
                size += batch.bytes
                if size > MOST_BYTES:
                    kept = f"up to {MOST_BYTES // 1024**3} GiB of data that comes once, or in another order, are kept"
                    warn(f"the first {len(self._held)} batches were taken: {kept}", stacklevel=4)
                    break
                self._held.append(batch)

    def part(self, which: int) -> Iterator[Batch]:
        """Every second batch, where the model is: 0 those to look at, 1 those kept aside."""
        batches = self._feed.first(self._batches) if self._held is None else self._held
        return placed(islice(batches, which, None, 2), self._model)


class Costing:
    """What freezing sites costs, in one measure."""

    def __init__(self, model: nn.Module, halves: Halves, by: Measure) -> None:
        self.by = by
        self._model, self._halves = model, halves
        self._scoring = Scoring(classes=halves.classes)
        if by == "outputs":
            self._scoring.measure = by
        self.nothing, _ = self.of([], 1)

    def of(self, sites: Sequence[Watched], part: int) -> tuple[Differences, Differences]:
        """(what is lost with these sites frozen to their means, how far the outputs then move), on a part of the data.

        Raises:
            AttnInjectError: it is to be told by accuracy, and the data has no classes.

        """
        lost, moved = Differences(), Differences()
        for batch in self._halves.part(part):
            outputs = run(self._model, batch)
            with exchanged({site.module: frozen(site) for site in sites}):
                changed = run(self._model, batch) if sites else outputs
            lost.add(self._scoring.losses(batch, outputs, changed))
            moved.add(change(outputs, changed))
            if self._scoring.measure != self.by:
                why = "; ".join(self._scoring.notes) or "the data has no targets"
                raise AttnInjectError(
                    "folding by accuracy takes data with the number of its class for each image; fold by the outputs "
                    f"instead ({why})"
                )
        return lost, moved

    def must_resolve(self, tolerance: float) -> None:
        """Refuse what no folding could be shown to keep within.

        Raises:
            AttnInjectError: there is nothing to be judged by, or too little for an interval as narrow as the tolerance.

        """
        images = self.nothing.count
        if not images:
            raise AttnInjectError("fold needs at least two batches of data: one to look at, and one to be judged by")
        if self.by != "accuracy":
            return
        if not tolerance:
            raise AttnInjectError("no number of images shows that no answer changes: give a tolerance above 0, as 0.01")
        reached = self.nothing.effect(self.by, 1).high
        if reached is None or reached > tolerance:
            # With no answer changed the interval shrinks as 1 / (n + 2).
            width = Differences(FEWEST_IMAGES).effect(self.by, 1).high or 0.0
            enough = max(FEWEST_IMAGES, ceil(width * (FEWEST_IMAGES + 2) / tolerance) - 2)
            raise AttnInjectError(
                f"{images} images kept aside cannot show that at most {100 * tolerance:.3g} points of accuracy are "
                f"lost, even if no answer changes: that takes {enough:,}, and as many "
                "to look at; give more, or allow more"
            )
