"""Numbers as people read them; shared by all views so that they say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import TYPE_CHECKING

from ...cost.amounts import Cost
from ...cost.samples import is_resolved
from ...types import block_name, counted, guard_notes
from ..data import DiffLine, Quantity, ReportData, Speed
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


def convention(report: ReportData | ComparisonData) -> str:
    """The sentence that names what was counted, without which a count is wrong half the time."""
    units = unit_words(report.units)
    if report.convention == "paper":
        return f"Papers' convention: convolutions and linears only. 1 MAC = 2 FLOPs. {units}"
    return f"MACs: convolutions, linears, matmuls. FLOPs: 2 per MAC, plus elementwise and pooling work. {units}"


def fallen_peak(report: ReportData) -> str | None:
    """Why the most that is held at once may be less with attention than without."""
    peak = report.total("peak activation bytes")
    if peak.difference >= 0 or not report.sites:
        return None
    return "Peak activation bytes: a graph lets go of a block's input sooner than the model's own code does."


def unit_words(units: Units) -> str:
    """Which millions."""
    return "M = 10^6." if units == "decimal" else "Mi = 2^20."


def speed_title(speed: Speed) -> str:
    """Names the device first, so that a CPU's figures are never taken for a GPU's."""
    return f"{speed.device_kind.upper()} speed, {speed.task}"


def speed_settings(speed: Speed) -> str:
    parts = [speed.device, speed.dtype, f"batch {speed.batch}"]
    parts += ["channels last"] if speed.channels_last else []
    parts += ["compiled" if speed.compiled else "eager", speed.clock]
    return ", ".join(parts)


def ratio(speed: Speed) -> str:
    """1.065 times the time (95 % interval 1.041 to 1.090); what was not resolved is only its interval."""
    if not speed.resolved:
        return unresolved(speed.ratio_low, speed.ratio_high, speed.pairs, speed.confidence)
    interval = f"{100 * speed.confidence:.0f} % interval {speed.ratio_low:.3f} to {speed.ratio_high:.3f}"
    return f"{speed.ratio:.3f} times the time ({interval})"


def mean(value: float | None, low: float | None) -> str:
    """0.912 ± 0.004: a mean and half of its interval, whose lower end is `low`; a value alone where there is none."""
    if value is None:
        return ""
    return f"{value:.4g}" if low is None else f"{value:.4g} ± {value - low:.2g}"


def unresolved(low: float, high: float, pairs: int, confidence: float) -> str:
    """What is known where a ratio was not resolved."""
    return f"not resolved: {span_of_ratios(low, high, ' and ', 'between ')} ({sampled(pairs, confidence)})"


def sampled(pairs: int, confidence: float) -> str:
    """How many pairs an interval is from, and how sure it is."""
    return f"{counted(pairs, 'pair')}, {100 * confidence:.0f} %"


def rounds(samples: Iterable[tuple[float | None, int | None]]) -> str:
    """How sure the intervals of several ratios are, from how many rounds: "95 % (24 to 40 rounds)"."""
    known = [(confidence, pairs) for confidence, pairs in samples if confidence is not None and pairs is not None]
    shares = sorted({round(100 * confidence) for confidence, _ in known})
    counts = sorted({pairs for _, pairs in known})
    return f"{_ends(shares)} % ({_ends(counts)} rounds)"


def _ends(numbers: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(str(number) for number in (numbers[0], numbers[-1])))


def short_ratio(speed: Speed) -> tuple[str, tuple[str, ...]]:
    """What a tile says large, and what stands below it."""
    title = speed_title(speed)
    if speed.resolved:
        return f"{speed.ratio:.3f}×", (f"the time: {title}",)
    sure = sampled(speed.pairs, speed.confidence)
    below = f"the time, not resolved ({sure}): {title}", advice(speed) or ""
    return f"{span_of_ratios(speed.ratio_low, speed.ratio_high)}×", below


def span_of_ratios(low: float, high: float, between: str = "–", before: str = "") -> str:
    """0.63–1.12; a narrow interval has a digit more."""
    digits = 3 if high - low < 0.1 else 2
    return f"{before}{low:.{digits}f}{between}{high:.{digits}f}"


def advice(speed: Speed) -> str | None:
    """What would resolve a ratio that was not."""
    if speed.resolved:
        return None
    # More pairs do not help where only the company was wrong.
    sure = is_resolved(speed.ratio, speed.ratio_low, speed.ratio_high, speed.confidence, contended=False)
    ways = [] if sure else [f"--bench-seconds {_seconds_needed(speed)}"]
    ways += ["--threads 1"] if speed.threads not in (None, 1) else []
    ways += ["a quiet machine"] if speed.device_kind == "cpu" else []
    return f"to resolve it: {', '.join(ways)}"


def _seconds_needed(speed: Speed) -> int:
    """A limit that leaves time for all pairs, or, where all were taken, for four times as many."""
    if not speed.limited:
        return ceil(4 * speed.seconds_limit)
    # Not all of the limit is for the pairs.
    pairs = 1.25 * speed.pairs_wanted * (speed.before.median + speed.after.median)
    return ceil(max(pairs, 2 * speed.seconds_limit))


def contention(speed: Speed) -> str | None:
    """That the processor was not free, and how that shows."""
    if not speed.contended:
        return None
    if speed.cores_busy_elsewhere is not None and speed.cores_busy_elsewhere >= 0.25:
        return f"the machine was busy: other processes used {speed.cores_busy_elsewhere:.1f} cores meanwhile"
    return f"the machine was busy: this process got {speed.cores_used or 0:.1f} cores for its {speed.threads} threads"


def sample(speed: Speed) -> str:
    """How many pairs, and whether the time limit cut them short."""
    if speed.limited:
        limit = f"{speed.seconds_limit:g} s"
        return f"{speed.pairs} interleaved pairs, not {speed.pairs_wanted}: the time limit of {limit} came first"
    return f"{speed.pairs} interleaved pairs"


def speed_details(speed: Speed) -> list[str]:
    """What belongs to a ratio: what would resolve it, where it was measured and how, what it could be at best."""
    lines = (advice(speed), contention(speed), speed_settings(speed), sample(speed), floor(speed))
    return [*(line for line in lines if line is not None), *step_memory(speed)]


def step_memory(speed: Speed) -> list[str]:
    """What `optimize_training` keeps, and what the largest batches are for."""
    memory = speed.memory
    if memory is None:
        return []
    fit = f"largest batch: weights, gradients and what is kept fit into {short(memory.memory_bytes, unit='B')}"
    if memory.optimized is None:
        return [fit]
    kept = short(memory.optimized.kept_bytes, unit="B")
    return [f"with optimize_training: {kept} kept, largest batch {memory.optimized.largest_batch:,}", fit]


def floor(speed: Speed) -> str | None:
    """What the added memory traffic alone would take."""
    if speed.floor_bytes is None or speed.floor_seconds is None or speed.bandwidth is None:
        return None
    return (
        f"memory-traffic floor of the difference: {seconds(speed.floor_seconds)} "
        f"({short(speed.floor_bytes, unit='B')} at {short(round(speed.bandwidth), unit='B/s')})"
    )


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
