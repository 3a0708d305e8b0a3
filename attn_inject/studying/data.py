"""What a study of gates says, as frozen data. `reporting.gates` shows it.

A gate's *weight* is what a channel is multiplied by, one per image (and per call, where a block runs several times).
For an attention that weighs branches it is a branch's share in a channel: M C weights, branch by branch.
For any other that is no gate it is the factor that explains its output best: <out, x> / <x, x> over space, the mean
of its map weighted by the squares of what it weighs; for a gate that is the weight itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..surgery.folding import Folding
from ..types import Effect, Measure

# gate: out = x times one weight per channel. branches: a weighted sum or row of branches of its own, whatever its
# shape. map: anything else of the same shape. other: another shape, or in the place of a convolution.
Nature = Literal["gate", "branches", "map", "other"]
Verdict = Literal["constant", "pays", "harms", "not seen", ""]

# A weight below so much of the gate's upper end is closed, one above so much is open.
CLOSED, OPEN = 0.05, 0.95
# A channel is stuck where so many of its weights are on one side.
STUCK = 0.99
# A site whose weights would change by less than so much, if they were their means, is constant.
CONSTANT = 0.01
# Below so many images an interval would say more than is known.
FEWEST_IMAGES = 30
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class ChannelFigures:
    """One value per channel, or per branch and channel; None for channels whose input was zero in every image.

    `mean` and `spread` (standard deviation over images) are of the weights; `closed` and `opened` the share of images
    in which the weight's size was below `CLOSED`, or it was above `OPEN`, of the gate's upper end; `between` the share
    of the spread that lies between classes, adjusted for chance (epsilon squared, 0 where classes make no difference).
    """

    mean: tuple[float | None, ...] = ()
    spread: tuple[float | None, ...] = ()
    closed: tuple[float | None, ...] = ()
    opened: tuple[float | None, ...] = ()
    between: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class SelectiveChannel:
    """A channel whose weight tells classes apart: its share of spread between them, and its mean weight in each."""

    channel: int
    between: float
    class_means: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GateRow:
    """One site: what its attention did on the data.

    `top` is the upper end of the gate that shares are told by (1 where the module does not say). `weight` is the mean
    over channels and images, `percentiles` are those of the channels' means (0, 10, ... 100). `movement` is the
    relative error made by putting every channel's mean in place of its weights: the root of the mean variance over
    the mean square. `closed`, `opened` are the shares of channels that are stuck there in `STUCK` of all images.
    `between` is the share of the spread between classes. `frozen` is what is lost with the means in place of the
    weights, `without` with the attention taken out, None where it stands in the place of a convolution.
    """

    block: str
    kind: str
    stage: int
    channels: int
    size: tuple[int, ...]
    calls: int
    placement: str
    attention: str
    module: str
    nature: Nature
    top: float = 1.0
    weight: float | None = None
    movement: float | None = None
    closed: float | None = None
    opened: float | None = None
    between: float | None = None
    percentiles: tuple[float, ...] = ()
    figures: ChannelFigures = ChannelFigures()
    selective: tuple[SelectiveChannel, ...] = ()
    frozen: Effect | None = None
    without: Effect | None = None

    @property
    def is_constant(self) -> bool:
        """Whether it does what a constant factor per channel (of each branch) would do."""
        return self.nature in ("gate", "branches") and self.movement is not None and self.movement < CONSTANT

    def verdict(self, measure: Measure) -> Verdict:
        """What its moving is worth, as far as the data shows: told by `frozen`, since what a network was trained with
        is missed when it is taken out, whether it ever helped or not.
        """
        if self.is_constant:
            return "constant"
        if measure == "outputs" or self.frozen is None or self.frozen.low is None or self.frozen.high is None:
            return ""
        return "pays" if self.frozen.low > 0 else "harms" if self.frozen.high < 0 else "not seen"


@dataclass(frozen=True, slots=True)
class GatesData:
    """What the gates of a model did on some data, site by site.

    `data` describes the data; `synthetic` is whether it is noise, which says nothing about images. `classes` are the
    targets whose means were followed, in the order of `SelectiveChannel.class_means`. `measure` is what the effects
    are in, `score` what the untouched model has in it (None for `outputs`), both over `ablated_images`. `confidence`
    is that of all intervals together (Bonferroni over sites). `folding` is what `fold` then made of these gates, where
    it was asked to.
    """

    title: str
    data: str
    synthetic: bool
    images: int
    classes: tuple[int, ...]
    sites: tuple[GateRow, ...]
    measure: Measure = "outputs"
    score: float | None = None
    ablated_images: int = 0
    confidence: float = CONFIDENCE
    notes: tuple[str, ...] = ()
    folding: Folding | None = None
