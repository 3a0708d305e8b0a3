"""A `Comparison` in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..comparison import Candidate, ComparisonData
from . import words
from .markdown import table as markdown_table

_FRONT = "★"
# From this width on there is room for all columns.
_WIDE = 100
_ONLY_WIDE = frozenset({"sites", "MACs", "FLOPs"})


def render(comparison: ComparisonData, *, width: int = 80) -> Iterator[RenderableType]:
    """The table as rich renderables, the front marked; a narrow terminal does without some columns."""
    header, rows = _rows(comparison)
    shown = [i for i, name in enumerate(header) if width >= _WIDE or "ratio" not in header or name not in _ONLY_WIDE]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for index in shown:
        left = index == 0
        table.add_column(header[index], justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for each, row in zip(_made(comparison), rows, strict=True):
        table.add_row(*(row[index] for index in shown), style="bold" if each.on_front else "")
    yield table
    for line in _legend(comparison):
        yield Text(line, style="dim")
    for problem in _problems(comparison):
        yield Text(f"! {problem}", style="yellow")


def to_markdown(comparison: ComparisonData) -> str:
    """The table and its legend as Markdown."""
    header, rows = _rows(comparison)
    parts = [markdown_table(header, rows), " ".join(_legend(comparison))]
    parts += ["\n".join(f"- {problem}" for problem in _problems(comparison))] if _problems(comparison) else []
    return "\n\n".join(parts) + "\n"


def _made(comparison: ComparisonData) -> list[Candidate]:
    return [each for each in comparison.candidates if each.problem is None]


def _rows(comparison: ComparisonData) -> tuple[list[str], list[list[str]]]:
    made = _made(comparison)
    timed = any(each.seconds is not None for each in made)
    header = ["", "sites", "params", "more", "MACs", "FLOPs", *(["latency", "ratio"] if timed else []), "front"]
    plain = {each.model: each.parameters or 0 for each in made if each.attention == "none"}
    rows = []
    for each in made:
        base = plain[each.model]
        more = 100 * ((each.parameters or 0) - base) / base if base else None
        cells = [each.name(several=len(plain) > 1), str(each.sites or "")]
        cells += [words.short(each.parameters or 0, comparison.units), words.percent(more)]
        cells += [words.short(number or 0, comparison.units) for number in (each.macs, each.flops)]
        if timed:
            claimed = each.seconds is not None and (each.resolved or each.attention == "none")
            cells += [words.seconds(each.seconds or 0) if claimed else "", _ratio(each)]
        rows.append([*cells, _FRONT if each.on_front else ""])
    return header, rows


def _ratio(each: Candidate) -> str:
    if each.ratio is None:
        return ""
    if each.ratio_low is None or each.ratio_high is None:
        return f"{each.ratio:.3f}"
    if not each.resolved:
        return f"({words.span_of_ratios(each.ratio_low, each.ratio_high)})"
    return f"{each.ratio:.3f} ({each.ratio_low:.3f}–{each.ratio_high:.3f})"


def _legend(comparison: ComparisonData) -> list[str]:
    made = _made(comparison)
    what = "resolvedly less latency" if comparison.measure == "latency" else "less FLOPs"
    lines = [f"{_FRONT} fewest parameters, or {what} than all attentions with fewer."]
    lines.append(words.convention(comparison))
    if comparison.device is not None:
        lines.append(
            f"Latency per batch, ratio to the plain model with its {_sure(made)} interval, on {comparison.device}."
        )
    unsure = [each for each in made if each.confidence is not None and not each.resolved]
    if unsure:
        lines.append(
            "An interval alone: not resolved; a larger --bench-seconds, --threads 1 or a quiet machine would tell."
        )
    if any(each.contended for each in made):
        lines.append("The machine was busy with something else meanwhile.")
    return lines


def _sure(made: list[Candidate]) -> str:
    """How sure the intervals are, from how many rounds: "95 %, 24 rounds"."""
    shares = sorted({round(100 * each.confidence) for each in made if each.confidence is not None})
    rounds = sorted({each.pairs for each in made if each.pairs is not None})
    return f"{_range(shares)} % ({_range(rounds)} rounds)"


def _range(numbers: list[int]) -> str:
    return " to ".join(dict.fromkeys(str(number) for number in (numbers[0], numbers[-1])))


def _problems(comparison: ComparisonData) -> list[str]:
    return [
        f"{each.model} + {each.label}: {each.problem}" for each in comparison.candidates if each.problem is not None
    ]
