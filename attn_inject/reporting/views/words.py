"""Numbers as people read them; shared by all views so that they say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...cost.amounts import Cost
from ...types import block_name, guard_notes
from ..data import DiffLine, Quantity, ReportData
from ..settings import Units

if TYPE_CHECKING:
    from ..comparison import ComparisonData

_MOST_BLOCKS = 4
_PREFIXES = {
    "decimal": ((1000**4, "T"), (1000**3, "G"), (1000**2, "M"), (1000, "k")),
    "binary": ((1024**4, "Ti"), (1024**3, "Gi"), (1024**2, "Mi"), (1024, "Ki")),
}


def short(number: int, units: Units = "decimal", unit: str = "") -> str:
    """Three or four digits, a prefix and the unit: 25.56 M, 1.20 GB; below a thousand whole numbers: 86, 12 B."""
    for size, prefix in _PREFIXES[units]:
        if abs(number) >= size:
            value = number / size
            digits = 2 if abs(value) < 100 else 1
            return f"{value:.{digits}f} {prefix}{unit}"
    return f"{number} {unit}" if unit and number else str(number)


def tick(number: float, units: Units = "decimal") -> str:
    """A round number on an axis: 500 k."""
    size, prefix = next(((size, prefix) for size, prefix in _PREFIXES[units] if abs(number) >= size), (1, ""))
    return f"{number / size:g} {prefix}".strip()


def signed(number: int, units: Units = "decimal", unit: str = "") -> str:
    return ("+" if number > 0 else "") + short(number, units, unit)


def quantity(value: int, unit: str, units: Units = "decimal") -> str:
    """A total: counts in full (in binary units shortened), operations and bytes shortened."""
    match unit:
        case "count":
            return f"{value:,}" if units == "decimal" else short(value, units)
        case "bytes":
            return short(value, units, "B")
        case _:
            return short(value, units)


def difference(total: Quantity, units: Units = "decimal") -> str:
    text = quantity(total.difference, total.unit, units)
    return f"+{text}" if total.difference > 0 else text


def percent(value: float | None) -> str:
    """A signed percentage, small ones with more digits: +9.8 %, +0.0003 %; a dash where there is no base."""
    if value is None:
        return "–"
    if value == 0:
        return "0 %"
    digits = 1 if abs(value) >= 1 else 2 if abs(value) >= 0.01 else 4
    return f"{value:+.{digits}f} %"


def blocks(names: Sequence[str]) -> str:
    """The first few blocks by name, the others by number."""
    shown = [block_name(name) for name in names[:_MOST_BLOCKS]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def seconds(value: float) -> str:
    for length, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        # What three digits round up to the next unit is that: 1.00 s, not 1.00e+03 ms.
        if abs(value) >= 0.9995 * length:
            return f"{value / length:#.3g}".rstrip(".") + f" {unit}" if abs(value) < 1000 else f"{value:.0f} s"
    return f"{value * 1e9:.0f} ns" if value else "0 s"


def span(low: float, high: float) -> str:
    return f"{seconds(low)} – {seconds(high)}"


def size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "–"


def inputs(report: ReportData) -> str:
    """What the models were given: the size of one input, or each by its name, then the type of the weights."""
    if len(report.inputs) < 2:
        return f"{size(report.input_size)}, {report.dtype}"
    given = (
        " ".join(
            [row.name, *([size(row.size)] if row.size else []), *([row.dtype] if row.dtype != report.dtype else [])]
        )
        for row in report.inputs
    )
    return f"{', '.join(given)}; {report.dtype}"


def amounts(cost: Cost, units: Units) -> tuple[str, str, str, str]:
    """Parameters, MACs, FLOPs and memory traffic that something adds."""
    numbers = (cost.parameters, cost.macs, cost.flops)
    return (*(signed(number, units) for number in numbers), signed(cost.traffic, units, "B"))  # type: ignore[return-value]


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def diff_line(line: DiffLine) -> str:
    """`+ ` new, `- ` gone, two blanks kept."""
    return f"{ {'new': '+', 'gone': '-', 'kept': ' '}[line.mark] } {line.text}"


def convention(report: ReportData | ComparisonData, *, macs: bool = True) -> str:
    """What was counted, without which a count is wrong half the time; `macs`: whether MACs are shown at all."""
    units = unit_words(report.units)
    if report.convention == "paper":
        return f"Papers' convention: convolutions and linears only. 1 MAC = 2 FLOPs. {units}"
    counted = "convolutions, linears, matmuls"
    flops = f"MACs: {counted}. FLOPs: 2 per MAC" if macs else f"FLOPs: 2 per MAC ({counted})"
    return f"{flops}, plus elementwise and pooling work. {units}"


def fallen_peak(report: ReportData) -> str | None:
    """Why the most that is held at once may be less with attention than without."""
    peak = report.total("peak activation bytes")
    if peak.difference >= 0 or not report.sites:
        return None
    return "Peak activation bytes: a graph lets go of a block's input sooner than the model's own code does."


def unit_words(units: Units) -> str:
    """Which millions."""
    return "M = 10^6." if units == "decimal" else "Mi = 2^20."


def mean(value: float | None, low: float | None) -> str:
    """0.912 ± 0.004: a mean and half of its interval, whose lower end is `low`; a value alone where there is none."""
    if value is None:
        return ""
    return f"{value:.4g}" if low is None else f"{value:.4g} ± {value - low:.2g}"


def circumstances(report: ReportData) -> str:
    """When, with what and on what a report was made."""
    made = [f"{report.made.replace('T', ' ').removesuffix('+00:00')} UTC"] if report.made else []
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    devices = dict.fromkeys(speed.device for speed in report.speeds)
    return " · ".join(part for part in (*made, versions, *devices) if part)


def checks(report: ReportData) -> str | None:
    """One line on what was verified."""
    if not report.checks:
        return None
    failed = [check.name for check in report.checks if not check.passed]
    if failed:
        return f"FAILED {len(failed)} of {len(report.checks)} checks: {', '.join(failed)}"
    return f"verified: {', '.join(check.name for check in report.checks)}"


def remarks(report: ReportData) -> list[str]:
    """What a reader must not miss, in order: notes of the plan, what was not kept, what could not be counted."""
    lines = list(report.notes)
    lines += guard_notes(report.guards, any_size=report.any_size)
    lines += [f"not kept: {name}" for name in _folded(report.not_kept)]
    timed = [row for row in report.sites if row.seconds is not None]
    unsure = sum(row.time_share is None for row in timed)
    if unsure:
        lines.append(f"shares of the time were not resolved at {unsure} of {len(timed)} sites")
    if report.unknown:
        lines.append("FLOPs not counted: " + ", ".join(f"{name} ({n}×)" for name, n in report.unknown.items()))
    return lines


def _folded(losses: Sequence[str]) -> list[str]:
    """The losses, but all methods in one line: a class may have a dozen that its graph leaves behind."""
    named = [loss.removeprefix("method ").partition(":")[0] for loss in losses if loss.startswith("method ")]
    if len(named) < 2:
        return list(losses)
    shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
    rest = [loss for loss in losses if not loss.startswith("method ")]
    return [*rest, f"{len(named)} methods of the class's own code ({shown}): attach() and --form module keep them"]
