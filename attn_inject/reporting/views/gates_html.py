"""`Gates` as one HTML page that needs nothing else."""

from __future__ import annotations

from ...studying.data import GatesData
from ...types import Effect
from . import fold_words, gates_words
from .gates_plot import charts
from .html import inline, template
from .plot import svg


def to_html(data: GatesData) -> str:
    """The page's text."""
    return template("gates.html.jinja").render(
        data=data,
        words=gates_words,
        fold_words=fold_words,
        stages=gates_words.table(data),
        sites=gates_words.table(data, full=True, intervals=True),
        sort_keys=_sort_keys(data),
        charts=[svg(title, chart) for title, chart in charts(data).items()],
        inline=inline,
    )


def _sort_keys(data: GatesData) -> list[list[float | None]]:
    """What the cells of the table of sites sort by, row by row: numbers in full, None for a cell's own text."""

    def mean(effect: Effect | None) -> float | None:
        return None if effect is None else effect.mean

    return [
        [
            None,
            row.channels,
            *(row.weight, row.movement, row.closed, row.opened),
            *((row.between,) if data.classes else ()),
            *((mean(row.frozen), mean(row.without)) if gates_words.has_effects(data) else ()),
        ]
        for row in data.sites
    ]
