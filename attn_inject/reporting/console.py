"""A `Report` in the terminal; everything fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from . import words
from .data import Report, Speed
from .tables import TOTALS_HEADER, sites_table, speed_rows, totals_rows

# From this width on, the table of sites has room for all columns.
_WIDE = 100
_ONLY_WIDE = frozenset({"FLOPs", "traffic"})


def render(report: Report, *, full: bool = False, width: int = 80) -> Iterator[RenderableType]:
    """The report as rich renderables; `full` gives every site a row of its own."""
    yield Text.assemble((report.title, "bold"), f"   {words.size(report.input_size)}, {report.dtype}")
    yield Text()
    yield _totals(report)
    yield Text(words.convention(report), style="dim")
    if report.sites:
        yield Text()
        yield _sites(report, full=full, wide=width >= _WIDE)
    for speed in report.speeds:
        yield Text()
        yield from _speed(speed)
    yield from _closing(report)


def render_diff(report: Report) -> Iterator[RenderableType]:
    """The changed code of every distinct shape of block, new lines marked `+`, lines that went `-`."""
    styles = {"new": "green", "gone": "red", "kept": "dim"}
    for diff in report.diffs:
        yield Text(", ".join(block or "(model)" for block in diff.blocks), style="bold")
        for line in diff.lines:
            yield Text(f"  {words.diff_line(line)}", style=styles[line.mark])
        yield Text()


def to_text(report: Report, *, full: bool = False, width: int = 80) -> str:
    """The same as plain text."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        for part in render(report, full=full, width=width):
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)


def _totals(report: Report) -> Table:
    table = _table("Per image, inference")
    table.add_column("")
    for name in TOTALS_HEADER[1:]:
        table.add_column(name, justify="right")
    for total, row in zip(report.totals, totals_rows(report), strict=True):
        table.add_row(*row, style="" if total.difference else "dim")
    return table


def _sites(report: Report, *, full: bool, wide: bool) -> Table:
    sites = sites_table(report, full=full)
    shown = [i for i, name in enumerate(sites.header) if wide or name not in _ONLY_WIDE]
    table = _table(f"{len(report.sites)} sites")
    for index in shown:
        number = index >= sites.text_columns
        table.add_column(sites.header[index], justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in sites.rows:
        table.add_row(*(row[index] for index in shown))
    for row in sites.sums:
        table.add_row(*(row[index] for index in shown), style="bold" if row is sites.sums[0] else "")
    return table


def _speed(speed: Speed) -> Iterator[RenderableType]:
    table = _table(words.speed_title(speed))
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for name, *values in speed_rows(speed):
        table.add_row(name, *values)
    yield table
    yield Text(words.ratio(speed), style="bold")
    details = (words.speed_settings(speed), words.sample(speed), words.floor(speed))
    yield Text("\n".join(filter(None, details)), style="dim")


def _closing(report: Report) -> Iterator[RenderableType]:
    remarks = words.remarks(report)
    if remarks:
        yield Text()
    for remark in remarks:
        yield Text(f"! {remark}", style="yellow")
    checks = words.checks(report)
    if checks is not None:
        yield Text()
        yield Text(checks, style="red bold" if checks.startswith("FAILED") else "green")
