"""A `Comparison` in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..comparison import Candidate, ComparisonData
from . import speed_words, words
from .markdown import table as markdown_table

_FRONT = "★"
# What a terminal too narrow for all columns does without, in this order; the last only where no star hangs on it.
_DISPENSABLE = ("MACs", "latency", "sites", "FLOPs")
_GAP = 2


def render(comparison: ComparisonData, *, width: int = 80) -> Iterator[RenderableType]:
    """The table as rich renderables, the front marked; a narrow terminal does without some columns."""
    header, lines = rows(comparison)
    made = _made(comparison)
    if len({each.model for each in made}) > 1:
        # What stands below its model need not repeat the name.
        names = [each.model if each.attention == "none" else f"  + {each.label}" for each in made]
        lines = [[name, *line[1:]] for name, line in zip(names, lines, strict=True)]
    shown = _fitting(header, lines, width, _DISPENSABLE[:-1] if comparison.measure == "FLOPs" else _DISPENSABLE)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for index in shown:
        left = index == 0
        table.add_column(header[index], justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for each, row in zip(made, lines, strict=True):
        table.add_row(*(row[index] for index in shown), style="bold" if each.on_front else "")
    yield table
    for line in legend(comparison, {header[index] for index in shown}):
        yield Text(line, style="dim")
    for problem in problems(comparison):
        yield Text(f"! {problem}", style="yellow")


def _fitting(
    header: Sequence[str], lines: Sequence[Sequence[str]], width: int, dispensable: Sequence[str]
) -> list[int]:
    """The columns that are shown, by index: all, or without those that can be spared until the rest fits."""
    widest = [max(map(cell_len, column)) for column in zip(header, *lines, strict=True)]
    shown = list(range(len(header)))
    for name in dispensable:
        if sum(widest[index] + _GAP for index in shown) - _GAP <= width:
            break
        shown = [index for index in shown if header[index] != name]
    return shown


def to_markdown(comparison: ComparisonData) -> str:
    """The table and its legend as Markdown."""
    header, lines = rows(comparison)
    parts = [markdown_table(header, lines), " ".join(legend(comparison, set(header)))]
    parts += ["\n".join(f"- {problem}" for problem in problems(comparison))] if problems(comparison) else []
    return "\n\n".join(parts) + "\n"


def _made(comparison: ComparisonData) -> list[Candidate]:
    return [each for each in comparison.candidates if each.problem is None]


def rows(comparison: ComparisonData) -> tuple[list[str], list[list[str]]]:
    """The plain model's totals, and what each attention adds to them."""
    made, units = _made(comparison), comparison.units
    timed = any(each.seconds is not None for each in made)
    trained = any(each.accuracy is not None for each in made)
    header = [
        "",
        "sites",
        "params",
        "more",
        "MACs",
        "FLOPs",
        "traffic",
        *(["latency", "ratio"] if timed else []),
        *(["accuracy"] if trained else []),
        "front",
    ]
    plain = {each.model: each for each in made if each.attention == "none"}
    found = []
    for each in made:
        base = plain[each.model]
        amounts = ((each.parameters, base.parameters, ""), (each.macs, base.macs, ""), (each.flops, base.flops, ""),
                   (each.traffic, base.traffic, "B"))  # fmt: skip
        parameters, *others = (
            words.short(value or 0, units, unit)
            if each is base
            else words.signed((value or 0) - (before or 0), units, unit)
            for value, before, unit in amounts
        )
        more = None if each is base else _percent(each.parameters, base.parameters)
        cells = [each.name(several=len(plain) > 1), str(each.sites or "")]
        cells += [parameters, "" if more is None else words.percent(more), *others]
        if timed:
            claimed = each.seconds is not None and (each.resolved or each is base)
            cells += [words.seconds(each.seconds or 0) if claimed else "", _ratio(each)]
        if trained:
            cells.append(words.mean(each.accuracy, each.accuracy_low))
        found.append([*cells, _FRONT if each.on_front else ""])
    return header, found


def _percent(value: int | None, base: int | None) -> float | None:
    return 100 * ((value or 0) - base) / base if base else None


def _ratio(each: Candidate) -> str:
    if each.ratio is None:
        return ""
    if each.ratio_low is None or each.ratio_high is None:
        return f"{each.ratio:.3f}"
    if not each.resolved:
        return f"({speed_words.span_of_ratios(each.ratio_low, each.ratio_high)})"
    return f"{each.ratio:.3f} ({each.ratio_low:.3f}–{each.ratio_high:.3f})"


def legend(comparison: ComparisonData, columns: set[str]) -> list[str]:
    """What the reader needs to know of the columns that are shown."""
    made = _made(comparison)
    what = "resolvedly less latency" if comparison.measure == "latency" else "fewer FLOPs"
    lines = [f"{_FRONT} fewest parameters, or {what} than all attentions with fewer."]
    lines.append(
        "The plain model's totals, per image, and what each adds to them; traffic: bytes read and written. "
        + (
            words.convention(comparison, macs="MACs" in columns)
            if columns & {"MACs", "FLOPs"}
            else words.unit_words(comparison.units)
        )
    )
    lines += _as_published(made)
    if comparison.device is not None and any(each.confidence is not None for each in made):
        sure = speed_words.rounds((each.confidence, each.pairs) for each in made)
        latency = "Latency per batch, ratio" if "latency" in columns else "Ratio: latency"
        lines.append(f"{latency} to the plain model's with its {sure} interval, on {comparison.device}.")
    if any(each.accuracy_low is not None for each in made):
        lines.append("Accuracy: mean over the seeds, ± half of its 95 % interval.")
    unsure = [each for each in made if each.confidence is not None and not each.resolved]
    if unsure:
        lines.append(
            "An interval alone: not resolved; a larger --bench-seconds, --threads 1 or a quiet machine would tell."
        )
    if any(each.contended for each in made):
        lines.append("The machine was busy with something else meanwhile.")
    return lines


def _as_published(made: list[Candidate]) -> list[str]:
    """What an attention whose paper puts it in the place of convolutions would add there."""
    plain = {each.model: each.parameters for each in made if each.attention == "none"}
    return [
        f"{each.name(several=len(plain) > 1)} as its paper uses it: --placement replace, "
        f"{words.percent(_percent(each.as_published, plain[each.model]))} params."
        for each in made
        if each.as_published is not None
    ]


def problems(comparison: ComparisonData) -> list[str]:
    return [
        f"{each.model} + {each.label}: {each.problem}" for each in comparison.candidates if each.problem is not None
    ]
