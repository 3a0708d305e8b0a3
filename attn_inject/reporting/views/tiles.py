"""What a page says first: each figure that matters, large, with what it was and is below."""

from __future__ import annotations

from ..data import Quantity, ReportData
from . import speed_words, words

Tile = tuple[str, tuple[str, ...]]


def tiles(report: ReportData) -> list[Tile]:
    """Parameters, arithmetic, memory traffic, what training keeps, time: large, and the lines below."""
    found = [_total(total, report) for total in (report.total("parameters"), report.total("FLOPs"), report.traffic)]
    for speed in report.speeds:
        if speed.memory is not None:
            kept = speed.memory.before.kept_bytes, speed.memory.after.kept_bytes
            found.append(_total(Quantity(speed_words.kept(speed), "bytes", *kept), report))
    found.extend(map(speed_words.short_ratio, report.speeds))
    return found


def _total(total: Quantity, report: ReportData) -> Tile:
    unit = "B" if total.unit == "bytes" else ""
    before, after = (words.short(value, report.units, unit) for value in (total.before, total.after))
    # Where three digits hide the difference it is said itself.
    change = f"{before} → {after}" if before != after else f"{before}, {words.difference(total, report.units)}"
    return words.percent(total.percent), (total.name, change if total.difference else before)
