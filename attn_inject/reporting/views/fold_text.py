"""What folding did, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from ...cost.samples import is_resolved
from ...studying.fold import Folding
from ...types import block_name
from . import words


def render_folding(folding: Folding) -> Iterator[RenderableType]:
    """The folded blocks, what that changed, and why the others were not."""
    count, of = len(folding.folded), len(folding.folded) + len(folding.kept)
    yield Text(f"folded {count} of {of} sites" + (f": {words.blocks(folding.folded)}" if count else ""), style="bold")
    error = folding.error
    interval = "" if error.low is None or error.high is None else f" ({_percent(error.low)} to {_percent(error.high)})"
    yield Text(
        f"outputs change by {_percent(error.mean)}{interval} on {folding.images:,} images kept aside; "
        f"up to {_percent(folding.tolerance)} was allowed"
    )
    before, after = folding.parameters
    yield Text(f"parameters {before:,} → {after:,}")
    if (race := folding.race) is not None:
        ratio = race.ratios[1]
        claim = words.unresolved(ratio.low, ratio.high, race.pairs, ratio.confidence)
        if is_resolved(ratio.median, ratio.low, ratio.high, ratio.confidence):
            claim = (
                f"{ratio.median:.3f} times the time ({100 * ratio.confidence:.0f} % interval {ratio.low:.3f} to "
                f"{ratio.high:.3f}, {race.pairs} pairs)"
            )
        before_race, after_race = (words.seconds(timing.median) for timing in race.timings)
        yield Text(f"median per batch {before_race} → {after_race}: {claim}")
    for block, reason in folding.kept:
        yield Text(f"not folded: {block_name(block)}: {reason}", style="dim")


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
