"""What a choice of sites says, as frozen data. `reporting.choice` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..cost.samples import Latency
from ..types import Effect, Plan
from .data import CONFIDENCE
from .prices import Price

Worth = Literal["pays", "harms", "not seen", ""]
# What a latency budget was kept by.
Basis = Literal["measured", "traffic", ""]


@dataclass(frozen=True, slots=True)
class SiteWorth:
    """One attention at one site, after training with that attention at all sites.

    `worth` is the loss that its ablation adds, over the measured images: the mean over seeds, and the bounds that hold
    the interval of every seed; `by_seed` are the seeds' means. `price` is what it costs.
    """

    block: str
    kind: str
    stage: int
    channels: int
    attention: str
    module: str
    worth: Effect
    by_seed: tuple[float, ...]
    price: Price
    chosen: bool = False

    @property
    def verdict(self) -> Worth:
        """Empty where the images are too few for an interval."""
        if self.worth.low is None or self.worth.high is None:
            return ""
        return "pays" if self.worth.low > 0 else "harms" if self.worth.high < 0 else "not seen"


@dataclass(frozen=True, slots=True)
class SetRow:
    """One set of sites, trained anew from every seed and judged on images that nothing was chosen by.

    `sites` and `price` are means where each seed has a set of its own (random sites; `blocks` is empty then). `loss`
    and `accuracy` (None where there are no classes) are means over judged images and seeds; `gain` is the plain model's
    loss less this one's, paired image by image, with bounds that hold the interval of every seed; None for the plain
    model.
    """

    name: str
    blocks: tuple[str, ...]
    sites: float
    price: Price
    fits: bool
    loss: float
    accuracy: float | None
    gain: Effect | None

    @property
    def verdict(self) -> Literal["better", "worse", "not seen", ""]:
        """Against no attention."""
        if self.gain is None or self.gain.low is None or self.gain.high is None:
            return ""
        return "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "not seen"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where attention pays within a budget, and how sure that is.

    `images` are those trained on, measured on, and judged by. `plain` is what the model itself costs. `basis` says what
    a latency budget was kept by: races, or bytes moved where races resolved nothing; `latency` is the chosen set's
    race, where there was one. `rows` begin with the chosen set. `confidence` is that of all sites' intervals together
    (of one seed), and of all rows' likewise.
    """

    title: str
    data: str
    images: tuple[int, int, int]
    seeds: int
    steps: int
    budget: str
    plan: Plan
    sites: tuple[SiteWorth, ...]
    rows: tuple[SetRow, ...]
    plain: Price
    basis: Basis = ""
    latency: Latency | None = None
    confidence: float = CONFIDENCE
    notes: tuple[str, ...] = ()
