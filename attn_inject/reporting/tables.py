"""The tables that the views have in common: a header and rows of ready words."""

from __future__ import annotations

from dataclasses import dataclass

from ..cost.amounts import Cost
from . import words
from .data import Report, Speed
from .folding import fold

TOTALS_HEADER = ("", "before", "after", "difference", "percent")


def totals_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
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
class SitesTable:
    """Every site (or fold of equal ones), then the sums; the first `text_columns` columns are no numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sums: tuple[tuple[str, ...], ...]
    text_columns: int = 3


def sites_table(report: Report, *, full: bool = False) -> SitesTable:
    """The table of sites; the column `time` is there where times were measured."""
    folded = fold(report.sites, full=full)
    timed = any(row.time_share is not None for row in folded)
    header = ("block", "kind", "module", "sites", "channels", "size", "params", "MACs", "FLOPs", "traffic")
    rows = []
    for row in folded:
        site = row.first
        where = (row.name, site.kind, row.module, str(row.count), str(site.channels), words.size(site.size))
        time = (words.share(row.time_share),) if timed else ()
        rows.append((*where, *words.amounts(row.added, report.units), *time))
    sums = [("all sites", str(len(report.sites)), sum((row.added for row in folded), Cost()))]
    if any((report.outside.parameters, report.outside.macs, report.outside.flops, report.outside.traffic)):
        sums.append(("outside them", "", report.outside))
    last = ("",) if timed else ()
    return SitesTable(
        header=(*header, "time") if timed else header,
        rows=tuple(rows),
        sums=tuple((name, "", "", n, "", "", *words.amounts(cost, report.units), *last) for name, n, cost in sums),
    )


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
    return [(name, before, after) for name, before, after in rows]
