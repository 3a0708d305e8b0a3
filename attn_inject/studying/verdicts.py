"""What a reader of a choice must know, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from ..types import block_name, counted
from .choice import Choice, SetRow
from .data import FEWEST_IMAGES


def plan_notes(choice: Choice) -> tuple[str, ...]:
    """What goes with the plan: what was chosen, how it did, and how sure that is."""
    chosen = choice.rows[0]
    trained, measured, judged = choice.images
    if not choice.plan.insertions:
        return (f"chosen: no site, since {_why_none(choice)}",)
    seeds = _seeds(choice)
    several = len({site.attention for site in choice.sites}) > 1
    labels = {site.module: site.attention for site in choice.sites if site.chosen}
    blocks = ", ".join(
        block_name(made.site.block) + (f" ({labels[made.module]})" if several else "")
        for made in choice.plan.insertions
    )
    return (
        f"chosen: {blocks}; trained on {trained} images from {seeds}, measured on {measured}, judged on {judged}",
        _against_none(chosen, choice),
    )


def notes_of(choice: Choice, *, exact: bool) -> Iterator[str]:
    """What limits all that the choice says."""
    if choice.seeds == 1:
        yield "one seed: how far another start would change this is not known"
    if min(choice.images[1:]) < FEWEST_IMAGES:
        yield (
            f"{min(choice.images[1:])} images are few: there are no intervals below {FEWEST_IMAGES}, and without one "
            "no site counts as paying"
        )
    if choice.latency is not None and not choice.latency.resolved:
        yield (
            f"the latency of the chosen set was not resolved (between {choice.latency.low:.3f} and "
            f"{choice.latency.high:.3f}; {counted(choice.latency.pairs, 'pair')}, "
            f"{100 * choice.latency.confidence:.0f} %): a longer measurement or a quiet machine would tell"
        )
    if not exact:
        yield "there were too many sets to go through all: another may be worth more within the budget"
    yield "the network around the attention stayed frozen: what training all of it would give was not measured"


def _seeds(choice: Choice) -> str:
    return counted(choice.seeds, "seed")


def _why_none(choice: Choice) -> str:
    if choice.images[1] < FEWEST_IMAGES:
        return f"{choice.images[1]} images are too few to show that any pays"
    if any(site.verdict == "pays" for site in choice.sites):
        return f"none that pays fits into {choice.budget}"
    return f"at none the interval over {choice.images[1]} images and {_seeds(choice)} is above 0"


def _against_none(row: SetRow, choice: Choice) -> str:
    plain = next(each for each in choice.rows if each.name == "none")
    change = f"loss {plain.loss:.4g} without attention, {row.loss:.4g} with it"
    if row.gain is None or row.gain.low is None or row.gain.high is None:
        return f"{change}: {choice.images[2]} images are too few to say more"
    interval = f"gain {row.gain.mean:.3g}, {row.gain.low:.3g} to {row.gain.high:.3g}"
    said = {
        "better": "better than no attention",
        "worse": "WORSE than no attention",
        "not seen": "NOT shown to be better than no attention",
    }
    return f"{change} ({interval}): {said[row.verdict or 'not seen']}"
