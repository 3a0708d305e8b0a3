"""What was folded into a model's layers, as the model carries it in its `folding`, and a file too.

No torch in here: records are read without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import Effect, Measure

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of two models that ran in turns: median seconds per batch, and the second's time over the first's.

    As a file keeps it: rooms that measure have `cost.samples.Latency`. `low` and `high` bound the ratio's interval,
    which is sure to `confidence`, from `pairs` pairs; `contended` is whether other work kept the machine busy.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float
    confidence: float
    pairs: int
    contended: bool


@dataclass(frozen=True, slots=True)
class Folding:
    """What was folded: the blocks, in the order in which they were; those that were not, with the reason.

    `error` is what that costs over `images` images that were kept aside, with its interval, in `measure`: the share of
    right answers that is lost ("accuracy"), or the mean relative change of the outputs ("outputs"). It was to stay
    within `tolerance`, and nothing is promised beyond images like those. `parameters` and `speed` are before and after;
    `speed` is None where nothing was folded or it was not asked for.
    """

    folded: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]
    tolerance: float
    error: Effect
    images: int
    parameters: tuple[int, int]
    speed: Pace | None = None
    measure: Measure = "outputs"


def folding_of(model: nn.Module) -> Folding | None:
    """What was folded into the layers of a model, if anything was."""
    held = vars(model).get("folding")
    return held if isinstance(held, Folding) else None
