"""A `Comparison` in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from . import words
from .comparison import Candidate, Comparison
from .markdown import table as markdown_table

_FRONT = "★"


def render(comparison: Comparison) -> Iterator[RenderableType]:
    """The table as rich renderables, the front marked."""
    header, rows = _rows(comparison)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index > 0)
    for each, row in zip(_made(comparison), rows, strict=True):
        table.add_row(*row, style="bold" if each.on_front else "")
    yield table
    yield Text(_legend(comparison), style="dim")
    for problem in _problems(comparison):
        yield Text(f"! {problem}", style="yellow")


def to_markdown(comparison: Comparison) -> str:
    """The table and its legend as Markdown."""
    header, rows = _rows(comparison)
    parts = [markdown_table(header, rows), _legend(comparison)]
    parts += ["\n".join(f"- {problem}" for problem in _problems(comparison))] if _problems(comparison) else []
    return "\n\n".join(parts) + "\n"


def _made(comparison: Comparison) -> list[Candidate]:
    return [each for each in comparison.candidates if each.problem is None]


def _rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    made = _made(comparison)
    timed = any(each.seconds is not None for each in made)
    header = ["", "sites", "params", "", "MACs", "FLOPs", *(["latency", "ratio"] if timed else []), ""]
    plain = {each.model: each for each in made if each.attention == "none"}
    several = len(plain) > 1
    rows = []
    for each in made:
        name = each.model if each.attention == "none" else f"{each.model} + {each.label}" if several else each.label
        cells = [name, str(each.sites or "")]
        base = plain[each.model].parameters
        more = 100 * ((each.parameters or 0) - base) / base if base else None
        cells += [words.short(each.parameters or 0, comparison.units), words.percent(more)]
        cells += [words.short(number or 0, comparison.units) for number in (each.macs, each.flops)]
        if timed:
            cells += [words.seconds(each.seconds) if each.seconds else "", _ratio(each)]
        rows.append([*cells, _FRONT if each.on_front else ""])
    return header, rows


def _ratio(each: Candidate) -> str:
    if each.ratio is None:
        return ""
    if each.ratio_low is None or each.ratio_high is None:
        return f"{each.ratio:.3f}"
    return f"{each.ratio:.3f} ({each.ratio_low:.3f}–{each.ratio_high:.3f})"


def _legend(comparison: Comparison) -> str:
    lines = [f"{_FRONT} nothing else has both fewer parameters and less {comparison.measure}."]
    lines.append(words.convention(comparison))
    if comparison.device is not None:
        lines.append(f"Latency per batch, ratio to the plain model with its 95 % interval, on {comparison.device}.")
    return " ".join(lines)


def _problems(comparison: Comparison) -> list[str]:
    return [
        f"{each.model} + {each.label}: {each.problem}" for each in comparison.candidates if each.problem is not None
    ]
