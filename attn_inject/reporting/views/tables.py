"""The tables that the views have in common: a header and rows of ready words."""

from __future__ import annotations

from dataclasses import dataclass

from ...cost.amounts import Cost
from ..data import ReportData, Speed
from . import speed_words, words
from .alike import alike

_AMOUNTS = ("params", "MACs", "FLOPs", "traffic")
TOTALS_HEADER = ("", "before", "after", "difference", "percent")


def totals_rows(report: ReportData) -> list[tuple[str, str, str, str, str]]:
    """One row a total, under `TOTALS_HEADER`."""
    return [
        (
            total.name,
            words.quantity(total.before, total.unit, report.units),
            words.quantity(total.after, total.unit, report.units),
            words.difference(total, report.units),
            words.percent(total.percent),
        )
        for total in report.totals
    ]


@dataclass(frozen=True, slots=True)
class Table:
    """A header, rows, and rows of sums below them; the first `text_columns` columns are no numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sums: tuple[tuple[str, ...], ...] = ()
    text_columns: int = 0


def sites_table(report: ReportData, *, full: bool = False) -> Table:
    """A row for every site, or for all that are alike; the column `time` is there where times were measured."""
    rows_alike = alike(report.sites, full=full)
    timed = any(row.time_share is not None for row in rows_alike)

    def cells(
        what: tuple[str, str, str], count: object, where: tuple[str, str], cost: Cost, time: str
    ) -> tuple[str, ...]:
        counts = () if full else (str(count),)
        return (*what, *counts, *where, *words.amounts(cost, report.units), *((time,) if timed else ()))

    rows = [
        cells(
            (row.name, row.first.kind, row.module),
            row.count,
            (str(row.first.channels), words.size(row.first.size)),
            row.added,
            words.share(row.time_share),
        )
        for row in rows_alike
    ]
    total = sum((row.added for row in rows_alike), Cost())
    sums = [cells(("all sites", "", ""), len(report.sites), ("", ""), total, "")]
    if any((report.outside.parameters, report.outside.macs, report.outside.flops, report.outside.traffic)):
        sums.append(cells(("outside them", "", ""), "", ("", ""), report.outside, ""))
    counts = () if full else ("sites",)
    header = ("block", "kind", "module", *counts, "channels", "size", *_AMOUNTS, *(("time",) if timed else ()))
    return Table(header, tuple(rows), tuple(sums), text_columns=3)


def stages_table(report: ReportData) -> Table:
    """A row for every stage that has sites."""
    timed = any(row.time_share is not None for row in report.stages)
    rows = [
        (
            str(row.stage),
            str(row.sites),
            *words.amounts(row.added, report.units),
            *((words.share(row.time_share),) if timed else ()),
        )
        for row in report.stages
    ]
    return Table(("stage", "sites", *_AMOUNTS, *(("time",) if timed else ())), tuple(rows))


def speed_rows(speed: Speed) -> list[tuple[str, str, str]]:
    """Name, before, after of everything that was timed."""
    both = (speed.before, speed.after)
    rows = [
        ("median per batch", *(words.seconds(timing.median) for timing in both)),
        ("middle half", *(words.span(timing.low_quartile, timing.high_quartile) for timing in both)),
        ("images/s", *(f"{timing.images_per_second:,.1f}" for timing in both)),
    ]
    if speed.before.peak_bytes is not None and speed.after.peak_bytes is not None:
        rows.append(("peak memory", *(words.short(timing.peak_bytes or 0, unit="B") for timing in both)))
    if speed.memory is not None:
        kept = (speed.memory.before, speed.memory.after)
        rows.append((speed_words.kept(speed), *(words.short(each.kept_bytes, unit="B") for each in kept)))
        rows.append(("largest batch", *(f"{each.largest_batch:,}" for each in kept)))
    return [(name, before, after) for name, before, after in rows]
