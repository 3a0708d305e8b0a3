"""The charts of a choice: what each site is worth, and what each way to spend the budget gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from ...errors import AttnInjectError
from ...studying.choice import Choice
from . import choice_words
from .plot import AFTER, BEFORE, Chart, along, draw, effects, save


def charts(choice: Choice) -> Mapping[str, Chart]:
    """The charts that there is data for, by title."""
    found: dict[str, Chart] = {}
    if choice.sites:
        found["What each site is worth (blue: chosen)"] = lambda axes: _sites(choice, axes)
    if any(row.gain is not None for row in choice.rows):
        found["What each set gains over no attention"] = lambda axes: _sets(choice, axes)
    return found


def save_plot(choice: Choice, path: str | Path) -> None:
    """Draw the charts into a file."""
    found = charts(choice)
    if not found:
        raise AttnInjectError("there is no site to draw")
    save(draw(found), path)


def _sites(choice: Choice, axes: Axes) -> None:
    effects(
        axes,
        [site.worth for site in choice.sites],
        [AFTER if site.chosen else BEFORE for site in choice.sites],
    )
    axes.set_ylabel("loss added without it")
    names = choice_words.places(choice)
    if choice_words.attentions(choice):
        names = [f"{name} {site.attention}" for name, site in zip(names, choice.sites, strict=True)]
    _along(axes, names)


def _sets(choice: Choice, axes: Axes) -> None:
    rows = [row for row in choice.rows if row.gain is not None]
    effects(
        axes,
        [row.gain for row in rows if row.gain is not None],
        [AFTER if row.name == "chosen" else BEFORE for row in rows],
    )
    axes.set_ylabel("loss less than without")
    _along(axes, [choice_words.set_name(row) for row in rows])


def _along(axes: Axes, names: Sequence[str]) -> None:
    """Points need more room at the ends than bars."""
    along(axes, names)
    axes.margins(x=0.06)
