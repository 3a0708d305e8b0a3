"""What the views say of a folding, in sentences: the same in the terminal, on the page, and of a file."""

from __future__ import annotations

from ...surgery.folding import Folding
from ...types import block_name, counted
from ..folding import resolved
from . import speed_words, words
from .tables import Table


def heading(folding: Folding) -> str:
    """How many sites were folded, and which."""
    return f"folded {sites(folding)}"


def sites(folding: Folding) -> str:
    """How many sites, and which."""
    count, of = len(folding.folded), len(folding.folded) + len(folding.kept)
    return f"{count} of {of} sites" + (f": {words.blocks(folding.folded)}" if count else "")


def cost(folding: Folding) -> str:
    """What was lost, in its measure, on how many images, of what was allowed."""
    error, unit = folding.error, "" if folding.measure == "accuracy" else " %"
    low, high = (None if bound is None else _hundredths(bound) + unit for bound in (error.low, error.high))
    interval = "" if low is None or high is None else f" ({low} to {high})"
    mean, allowed = _hundredths(error.mean) + unit, _hundredths(folding.tolerance) + unit
    said = (
        f"{mean} points of accuracy lost{interval}"
        if folding.measure == "accuracy"
        else f"outputs change by {mean}{interval}"
    )
    return f"{said} on {folding.images:,} images kept aside; up to {allowed} was allowed"


def limits(folding: Folding) -> str:
    """How far that can be relied on."""
    spent = "share of right answers" if folding.measure == "accuracy" else "mean relative change of the outputs"
    few = ""
    if folding.error.high is None:
        few = f", without an interval, since {counted(folding.images, 'image')} are few"
    return f"judged by the {spent}{few}; nothing is promised beyond images like those kept aside"


def parameters(folding: Folding) -> str:
    before, after = folding.parameters
    return f"parameters {before:,} → {after:,}"


def speed(folding: Folding) -> str | None:
    """How fast before and after, where that was measured."""
    found = folding.speed
    if found is None:
        return None
    claim = speed_words.unresolved(found.low, found.high, found.pairs, found.confidence)
    if resolved(found):
        claim = (
            f"{found.ratio:.3f} times the time ({100 * found.confidence:.0f} % interval {found.low:.3f} to "
            f"{found.high:.3f}, {found.pairs} pairs)"
        )
    busy = ", while other work kept the machine busy" if found.contended else ""
    advice = "" if resolved(found) else "; a longer measurement or a quiet machine would tell"
    return f"median per batch {words.seconds(found.before)} → {words.seconds(found.after)}: {claim}{busy}{advice}"


def lines(folding: Folding) -> list[str]:
    """All that was measured, below the heading."""
    return [*filter(None, (cost(folding), limits(folding), parameters(folding), speed(folding)))]


def kept(folding: Folding) -> Table:
    """The sites that were not folded, and why."""
    rows = tuple((block_name(block), reason) for block, reason in folding.kept)
    return Table(("not folded", "reason"), rows, text_columns=2)


def _hundredths(value: float) -> str:
    return f"{100 * value + 0.0:.3g}"
