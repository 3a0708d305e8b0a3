"""A `Choice` in the terminal; everything fits 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from ...studying.choice import Choice, SetRow, SiteWorth
from ...types import Effect, block_name
from . import words
from .console import narrowed
from .tables import Table

_VERDICTS = {
    "better": "better than none",
    "worse": "WORSE than none",
    "not seen": "no difference seen",
}
_STYLES = {"better": "green", "worse": "red"}


def render_choice(choice: Choice, *, width: int = 80) -> Iterator[RenderableType]:
    """The sites with what they are worth, the sets with how they do, and what a reader must not miss."""
    yield Text(choice.title, style="bold")
    trained, measured, judged = choice.images
    seeds = f"{choice.seeds} seed{'s' if choice.seeds != 1 else ''}"
    yield Text(
        f"{choice.data}: {trained:,} images trained on, {measured:,} measured on, {judged:,} judged by; {seeds} of "
        f"{choice.steps} steps"
    )
    yield Text(f"budget {choice.budget or 'none'}")
    yield Text()
    yield narrowed(f"{len(choice.sites)} sites", _sites(choice), wide=width >= _WIDE)
    yield Text(
        "worth: loss that comes when the attention is taken out, with the interval over images that holds for every "
        f"seed, all of a table at {100 * choice.confidence:.0f} % together.",
        style="dim",
    )
    yield Text()
    yield narrowed("The same budget, trained anew", _sets(choice), wide=width >= _WIDE)
    yield Text("gain: loss of the plain model less that of the set.", style="dim")
    yield Text()
    for index, note in enumerate(choice.plan.notes[: 2 if choice.plan.insertions else 1]):
        style = _STYLES.get(choice.rows[0].verdict, "yellow") if index else "bold"
        yield Text(note, style=style)
    for note in choice.notes:
        yield Text(f"! {note}", style="yellow")


# From this width on, there is room for operations.
_WIDE = 100


def _sites(choice: Choice) -> Table:
    several = len({site.attention for site in choice.sites}) > 1
    latency = bool(choice.basis)
    places = Counter((site.block, site.attention) for site in choice.sites)

    def place(site: SiteWorth) -> str:
        # Where a block has several sites, the name of the attention tells which.
        inner = site.module.rpartition(".")[2] if places[site.block, site.attention] > 1 else ""
        return f"{block_name(site.block)} {inner}".rstrip()

    def cells(site: SiteWorth) -> tuple[str, ...]:
        return (
            place(site),
            *((site.attention,) if several else ()),
            ("chosen" if site.chosen else site.verdict or "–"),
            *_effect(site.worth),
            f"+{site.price.params:,}",
            f"+{words.short(site.price.flops)}",
            *((f"+{100 * site.price.latency:.2f} %",) if latency else ()),
        )

    header = (
        "block",
        *(("attention",) if several else ()),
        "verdict",
        "worth",
        "low … high",
        "params",
        "FLOPs",
        *(("time",) if latency else ()),
    )
    return Table(header, tuple(map(cells, choice.sites)), text_columns=2 + several)


def _sets(choice: Choice) -> Table:
    accurate = any(row.accuracy is not None for row in choice.rows)

    def cells(row: SetRow) -> tuple[str, ...]:
        return (
            row.name if row.fits else f"{row.name} (too dear)",
            f"{row.sites:.3g}",
            f"+{row.price.params:,}",
            f"+{words.short(row.price.flops)}",
            f"{row.loss:.4f}",
            *((f"{100 * row.accuracy:.1f} %" if row.accuracy is not None else "–",) if accurate else ()),
            *(_effect(row.gain) if row.gain is not None else ("–", "–")),
        )

    header = ("set", "sites", "params", "FLOPs", "loss", *(("right",) if accurate else ()), "gain", "low … high")
    return Table(header, tuple(map(cells, choice.rows)), text_columns=1)


def _effect(effect: Effect) -> tuple[str, str]:
    interval = "–" if effect.low is None or effect.high is None else f"{effect.low:.4f} … {effect.high:.4f}"
    return f"{effect.mean:.4f}", interval
