"""A `Choice` as one HTML page that needs nothing else."""

from __future__ import annotations

from ...studying.choice import Choice
from . import choice_words
from .choice_plot import charts
from .html import inline, template
from .plot import svg


def to_html(choice: Choice) -> str:
    """The page's text."""
    return template("choice.html.jinja").render(
        choice=choice,
        words=choice_words,
        sites=choice_words.sites(choice),
        sort_keys=_sort_keys(choice),
        sets=choice_words.sets(choice, verdicts=True),
        charts=[svg(title, chart) for title, chart in charts(choice).items()],
        inline=inline,
    )


def _sort_keys(choice: Choice) -> list[list[float | None]]:
    """What the cells of the table of sites sort by, row by row: numbers in full, None for a cell's own text."""
    names = 2 + choice_words.attentions(choice)
    return [
        [
            *[None] * names,
            *(site.worth.mean, site.worth.low),
            *(site.price.params, site.price.flops),
            *((site.price.latency,) if choice.basis else ()),
        ]
        for site in choice.sites
    ]
