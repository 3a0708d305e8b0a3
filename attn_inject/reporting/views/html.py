"""A `Report` as one HTML page that needs nothing else: styles, script, charts and graphs are all inside it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from math import prod

from jinja2 import Environment, PackageLoader, Template

from ...types import block_name
from ..data import ReportData
from . import speed_words, words
from .block_svg import block_svg
from .plot import charts, svg
from .strip import COSTS, strip
from .tables import TOTALS_HEADER, sites_table, speed_rows, stages_table, totals_rows
from .tiles import tiles


def to_html(report: ReportData) -> str:
    """The page's text."""
    return template("report.html.jinja").render(
        report=report,
        words=words,
        speed_words=speed_words,
        totals_header=TOTALS_HEADER,
        totals=totals_rows(report),
        tiles=tiles(report),
        network=strip(report),
        costs=COSTS,
        sites=sites_table(report, full=True),
        folded=sites_table(report),
        stages=stages_table(report),
        sort_keys=_sort_keys(report),
        speed_rows=speed_rows,
        charts=[svg(title, chart) for title, chart in charts(report).items()],
        inline=inline,
        graph=block_svg,
        block_name=block_name,
    )


def inline(name: str) -> str:
    """The text of a style sheet or a script that stands in the page."""
    return files(__package__).joinpath(name).read_text("utf-8")


@cache
def template(name: str) -> Template:
    """A page's template; what it is given is escaped."""
    loader = PackageLoader(__package__, "")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name)


def _sort_keys(report: ReportData) -> list[list[float | None]]:
    """What the cells of the table of sites sort by, row by row: numbers in full, None for a cell's own text."""
    return [
        [
            None, None, None, row.channels, prod(row.size), row.added.parameters, row.added.macs, row.added.flops,
            row.added.traffic, row.time_share,
        ]
        for row in report.sites
    ]  # fmt: skip
