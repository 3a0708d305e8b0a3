"""A `Report` in the terminal; everything fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..cost.amounts import Cost
from . import words
from .data import Report, Speed
from .folding import fold

# From this width on, the table of sites has room for all columns.
_WIDE = 100


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
    for name in ("before", "after", "difference", ""):
        table.add_column(name, justify="right")
    for total in report.totals:
        before, after = (words.quantity(value, total.unit, report.units) for value in (total.before, total.after))
        style = "" if total.difference else "dim"
        table.add_row(
            total.name, before, after, words.difference(total, report.units), words.percent(total.percent), style=style
        )
    return table


def _sites(report: Report, *, full: bool, wide: bool) -> Table:
    rows = fold(report.sites, full=full)
    timed = any(row.time_share is not None for row in rows)
    table = _table(f"{len(report.sites)} sites")
    table.add_column("block", overflow="fold")
    table.add_column("", justify="right")
    for name in ("kind", "module"):
        table.add_column(name)
    names = ["channels", "size", "params", "MACs"]
    names += ["FLOPs", "traffic"] if wide else []
    names += ["time"] if timed else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        site = row.first
        count = f"{row.count}×" if row.count > 1 else ""
        where = (row.name, count, site.kind, row.module, str(site.channels), words.size(site.size))
        table.add_row(*where, *_added(report, row.added, wide=wide), *([_share(row.time_share)] if timed else []))
    everything = sum((row.added for row in rows), Cost())
    table.add_row("all sites", "", "", "", "", "", *_added(report, everything, wide=wide), style="bold")
    if report.outside != Cost():
        table.add_row("outside them", "", "", "", "", "", *_added(report, report.outside, wide=wide))
    return table


def _added(report: Report, cost: Cost, *, wide: bool) -> list[str]:
    amounts = [words.signed(cost.parameters, report.units), words.signed(cost.macs, report.units)]
    if wide:
        amounts += [words.signed(cost.flops, report.units), words.signed(cost.traffic, report.units) + "B"]
    return amounts


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _speed(speed: Speed) -> Iterator[RenderableType]:
    table = _table(words.speed_title(speed))
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for name, *values in words.speed_rows(speed):
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
