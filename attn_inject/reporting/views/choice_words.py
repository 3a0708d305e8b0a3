"""What the views say of a choice, in words and ready cells: the same in the terminal and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...studying.choice import Choice, SetRow, SiteWorth
from ...types import Effect, block_name, counted
from . import words
from .tables import Table

GAIN = "gain: loss of the plain model less that of the set."
_VERDICTS = {
    "better": "better than none",
    "worse": "WORSE than none",
    "not seen": "no difference seen",
    "": "–",
}


def subtitle(choice: Choice) -> str:
    """What it was trained and judged on."""
    trained, measured, judged = choice.images
    seeds = counted(choice.seeds, "seed")
    return (
        f"{choice.data}: {trained:,} images trained on, {measured:,} measured on, {judged:,} judged by; {seeds} of "
        f"{choice.steps} steps"
    )


def budget(choice: Choice) -> str:
    return f"budget {choice.budget or 'none'}"


def plain(choice: Choice) -> str:
    """What the budget is told by."""
    return f"the plain model has {choice.plain.params:,} parameters and {words.short(choice.plain.flops)} FLOPs"


def latency(choice: Choice) -> str | None:
    """The chosen set's race, where it was resolved; where not, a note of the choice says so."""
    found = choice.latency
    if found is None or not found.resolved:
        return None
    return (
        f"the chosen set takes {found.ratio:.3f} times the plain model's time ({100 * found.confidence:.0f} % interval "
        f"{found.low:.3f} to {found.high:.3f}, {found.pairs} pairs)"
    )


def legend(choice: Choice) -> str:
    """What the columns of the sites mean."""
    return (
        "worth: loss that comes when the attention is taken out, with the interval over images that holds for every "
        f"seed, all of a table at {100 * choice.confidence:.0f} % together."
    )


def in_short(choice: Choice) -> Sequence[str]:
    """What was chosen, and how it did."""
    return choice.plan.notes[: 2 if choice.plan.insertions else 1]


def places(choice: Choice) -> list[str]:
    """The sites by name, in order: blocks, and which of its sites where a block has several."""
    counts = Counter((site.block, site.attention) for site in choice.sites)

    def name(site: SiteWorth) -> str:
        inner = site.module.rpartition(".")[2] if counts[site.block, site.attention] > 1 else ""
        return f"{block_name(site.block)} {inner}".rstrip()

    return [name(site) for site in choice.sites]


def attentions(choice: Choice) -> bool:
    """Whether several compete."""
    return len({site.attention for site in choice.sites}) > 1


def sites(choice: Choice) -> Table:
    """A row for every attention at every site."""
    several, timed = attentions(choice), bool(choice.basis)

    def cells(place: str, site: SiteWorth) -> tuple[str, ...]:
        return (
            place,
            *((site.attention,) if several else ()),
            ("chosen" if site.chosen else site.verdict or "–"),
            *_effect(site.worth),
            f"+{site.price.params:,}",
            f"+{words.short(site.price.flops)}",
            *((f"+{100 * site.price.latency:.2f} %",) if timed else ()),
        )

    header = (
        "block",
        *(("attention",) if several else ()),
        "verdict",
        "worth",
        "low … high",
        "params",
        "FLOPs",
        *(("time",) if timed else ()),
    )
    rows = tuple(cells(place, site) for place, site in zip(places(choice), choice.sites, strict=True))
    return Table(header, rows, text_columns=2 + several)


def sets(choice: Choice, *, verdicts: bool = False) -> Table:
    """A row for every way to spend the budget; with `verdicts` also what the gain's interval says."""
    accurate = any(row.accuracy is not None for row in choice.rows)

    def cells(row: SetRow) -> tuple[str, ...]:
        return (
            set_name(row),
            *((_VERDICTS[row.verdict],) if verdicts else ()),
            f"{row.sites:.3g}",
            f"+{row.price.params:,}",
            f"+{words.short(row.price.flops)}",
            f"{row.loss:.4f}",
            *((f"{100 * row.accuracy:.1f} %" if row.accuracy is not None else "–",) if accurate else ()),
            *(_effect(row.gain) if row.gain is not None else ("–", "–")),
        )

    header = (
        "set",
        *(("against none",) if verdicts else ()),
        *("sites", "params", "FLOPs", "loss"),
        *(("right",) if accurate else ()),
        *("gain", "low … high"),
    )
    return Table(header, tuple(map(cells, choice.rows)), text_columns=1 + verdicts)


def set_name(row: SetRow) -> str:
    return row.name if row.fits else f"{row.name} (too dear)"


def _effect(effect: Effect) -> tuple[str, str]:
    interval = "–" if effect.low is None or effect.high is None else f"{effect.low:.4f} … {effect.high:.4f}"
    return f"{effect.mean:.4f}", interval
