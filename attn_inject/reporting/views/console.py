"""A `Report` in the terminal; everything fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ...types import counted
from ..data import ReportData, Speed
from . import speed_words, tables, words
from .plain import plain_text

# From this width on, the table of sites has room for all columns.
_WIDE = 100
_ONLY_WIDE = frozenset({"FLOPs", "traffic"})


def render(report: ReportData, *, full: bool = False, width: int = 80) -> Iterator[RenderableType]:
    """The report as rich renderables; `full` gives every site a row of its own."""
    yield Text.assemble((report.title, "bold"), f"   {words.inputs(report)}")
    yield Text()
    yield _totals(report)
    for line in filter(None, (words.convention(report), words.fallen_peak(report))):
        yield Text(line, style="dim")
    if report.sites:
        yield Text()
        sites, stages = tables.sites_table(report, full=full), tables.stages_table(report)
        yield narrowed(counted(len(report.sites), "site"), sites, wide=width >= _WIDE)
        if len(sites.rows) > len(stages.rows) > 1:
            yield Text()
            yield narrowed("By stage", stages, wide=width >= _WIDE)
    for speed in report.speeds:
        yield Text()
        yield from _speed(speed)
    yield from _closing(report)


def render_diff(report: ReportData) -> Iterator[RenderableType]:
    """The changed code of every distinct shape of block, new lines marked `+`, lines that went `-`."""
    styles = {"new": "green", "gone": "red", "kept": "dim"}
    for diff in report.diffs:
        yield Text(words.blocks(diff.blocks), style="bold")
        for line in diff.lines:
            yield Text(f"  {words.diff_line(line)}", style=styles[line.mark])
        yield Text()


def to_text(report: ReportData, *, full: bool = False, width: int = 80) -> str:
    """The same as plain text."""
    return plain_text(render(report, full=full, width=width), width=width)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)


def _totals(report: ReportData) -> Table:
    table = _table("Per image, inference")
    table.add_column("")
    for name in tables.TOTALS_HEADER[1:]:
        table.add_column(name, justify="right")
    for total, row in zip(report.totals, tables.totals_rows(report), strict=True):
        table.add_row(*row, style="" if total.difference else "dim")
    return table


def narrowed(title: str, content: tables.Table, *, wide: bool) -> Table:
    """One of the shared tables; a narrow terminal does without some columns."""
    shown = [i for i, name in enumerate(content.header) if wide or name not in _ONLY_WIDE]
    table = _table(title)
    for index in shown:
        number = index >= content.text_columns
        table.add_column(content.header[index], justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in content.rows:
        table.add_row(*(row[index] for index in shown))
    for row in content.sums:
        table.add_row(*(row[index] for index in shown), style="bold" if row is content.sums[0] else "")
    return table


def _speed(speed: Speed) -> Iterator[RenderableType]:
    table = _table(speed_words.title(speed))
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for name, *values in tables.speed_rows(speed):
        table.add_row(name, *values)
    yield table
    yield Text(speed_words.ratio(speed), style="bold" if speed.resolved else "yellow")
    yield Text("\n".join(speed_words.details(speed)), style="dim")


def _closing(report: ReportData) -> Iterator[RenderableType]:
    remarks = words.remarks(report)
    if remarks:
        yield Text()
    for remark in remarks:
        yield Text(f"! {remark}", style="yellow")
    checks = words.checks(report)
    if checks is not None:
        yield Text()
        yield Text(checks, style="red bold" if checks.startswith("FAILED") else "green")
