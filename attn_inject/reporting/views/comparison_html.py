"""A `Comparison` as one HTML page that needs nothing else."""

from __future__ import annotations

from ..comparison import ComparisonData
from .comparison_plot import charts
from .comparison_text import legend, problems, rows
from .html import inline, template
from .plot import svg
from .tables import Table


def to_html(comparison: ComparisonData) -> str:
    """The page's text."""
    header, lines = rows(comparison)
    return template("comparison.html.jinja").render(
        title=" and ".join(dict.fromkeys(each.model for each in comparison.candidates)) + ": attentions side by side",
        table=Table(tuple(header), tuple(map(tuple, lines)), text_columns=1),
        legend=legend(comparison, set(header)),
        problems=problems(comparison),
        charts=[svg(title, chart) for title, chart in charts(comparison).items()],
        inline=inline,
    )
