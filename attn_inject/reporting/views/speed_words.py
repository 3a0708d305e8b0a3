"""What the views say of a race, in sentences: its ratio or why there is none, how it was measured, what would tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from ...cost.samples import is_resolved
from ...types import counted
from ..data import Speed
from . import words


def title(speed: Speed) -> str:
    """Names the device first, so that a CPU's figures are never taken for a GPU's."""
    return f"{speed.device_kind.upper()} speed, {speed.task}"


def settings(speed: Speed) -> str:
    parts = [speed.device, speed.dtype, f"batch {speed.batch}"]
    parts += ["channels last"] if speed.channels_last else []
    parts += ["compiled" if speed.compiled else "eager", speed.clock]
    return ", ".join(parts)


def kept(speed: Speed) -> str:
    """What the bytes are called that training keeps: they are counted in eager steps, and a compiler keeps others."""
    return "kept for backward, eager" if speed.compiled else "kept for backward"


def ratio(speed: Speed) -> str:
    """1.065 times the time (95 % interval 1.041 to 1.090); what was not resolved is only its interval."""
    if not speed.resolved:
        return unresolved(speed.ratio_low, speed.ratio_high, speed.pairs, speed.confidence)
    interval = f"{100 * speed.confidence:.0f} % interval {speed.ratio_low:.3f} to {speed.ratio_high:.3f}"
    return f"{speed.ratio:.3f} times the time ({interval})"


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
    named = title(speed)
    if speed.resolved:
        return f"{speed.ratio:.3f}×", (f"the time: {named}",)
    sure = sampled(speed.pairs, speed.confidence)
    below = f"the time, not resolved ({sure}): {named}", to_resolve(speed)
    return f"{span_of_ratios(speed.ratio_low, speed.ratio_high)}×", below


def span_of_ratios(low: float, high: float, between: str = "–", before: str = "") -> str:
    """0.63–1.12; a narrow interval has a digit more."""
    digits = 3 if high - low < 0.1 else 2
    return f"{before}{low:.{digits}f}{between}{high:.{digits}f}"


def to_resolve(speed: Speed) -> str:
    """What would resolve a ratio that was not."""
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


def details(speed: Speed) -> list[str]:
    """What belongs to a ratio: what would resolve it, where it was measured and how, what it could be at best."""
    advice = None if speed.resolved else to_resolve(speed)
    lines = (advice, contention(speed), settings(speed), sample(speed), floor(speed))
    return [*(line for line in lines if line is not None), *step_memory(speed)]


def step_memory(speed: Speed) -> list[str]:
    """What `optimize_training` keeps, and what the largest batches are for."""
    memory = speed.memory
    if memory is None:
        return []
    fit = f"largest batch: weights, gradients and what is kept fit into {words.short(memory.memory_bytes, unit='B')}"
    if memory.optimized is None:
        return [fit]
    kept = words.short(memory.optimized.kept_bytes, unit="B")
    return [f"with optimize_training: {kept} kept, largest batch {memory.optimized.largest_batch:,}", fit]


def floor(speed: Speed) -> str | None:
    """What the added memory traffic alone would take."""
    if speed.floor_bytes is None or speed.floor_seconds is None or speed.bandwidth is None:
        return None
    return (
        f"memory-traffic floor of the difference: {words.seconds(speed.floor_seconds)} "
        f"({words.short(speed.floor_bytes, unit='B')} at {words.short(round(speed.bandwidth), unit='B/s')})"
    )
