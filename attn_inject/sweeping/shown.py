"""A sweep's table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..reporting.views import speed_words, words
from .rows import Row

# From this width on there is room for all columns.
_WIDE = 112
_ONLY_WIDE = frozenset({"MACs", "FLOPs"})


def render(rows: Sequence[Row], *, width: int = 80) -> Iterator[RenderableType]:
    """The table as rich renderables, and what failed below it; a narrow terminal does without some columns."""
    header, lines = _cells([row for row in rows if row.sites is not None])
    shown = [i for i, name in enumerate(header) if width >= _WIDE or name not in _ONLY_WIDE]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for index in shown:
        table.add_column(header[index], justify="left" if index < 2 else "right", no_wrap=index > 1, overflow="fold")
    for line in lines:
        table.add_row(*(Text(line[index]) for index in shown))
    yield table
    for text in _legend(rows):
        yield Text(text, style="dim")
    for row in rows:
        if row.error is not None:
            yield Text(f"! {row.model} + {row.label}: {row.error}", style="yellow")


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    timed = any(row.latency_ratio is not None for row in rows)
    trained = any(row.accuracy is not None for row in rows)
    header = ["model", "attention", "sites", "params", "MACs", "FLOPs", "traffic"]
    header += (["latency"] if timed else []) + (["accuracy"] if trained else [])
    # What holds for all rows need not stand in each.
    several = len({row.options for row in rows if row.options}) > 1
    lines = []
    for row in rows:
        label = f"{row.label} {row.options}" if several and row.options else row.label
        line = [row.model, label, str(row.sites)]
        line += [words.signed(value or 0) for value in (row.parameters, row.macs, row.flops)]
        line.append("" if row.traffic_ratio is None else words.percent(100 * (row.traffic_ratio - 1)))
        line += ([_latency(row)] if timed else []) + ([words.mean(row.accuracy, row.accuracy_low)] if trained else [])
        lines.append(line)
    return header, lines


def _latency(row: Row) -> str:
    if row.latency_ratio is None or row.latency_low is None or row.latency_high is None:
        return ""
    span = speed_words.span_of_ratios(row.latency_low, row.latency_high)
    return f"{row.latency_ratio:.3f} ({span})" if row.latency_resolved else f"({span})"


def _legend(rows: Sequence[Row]) -> Iterator[str]:
    failed = sum(row.error is not None for row in rows)
    errors = f", {failed} with an error" if failed else ""
    yield f"{len(rows)} row{'' if len(rows) == 1 else 's'}{errors}. What each attention adds, per image."
    devices = sorted({row.device for row in rows if row.device is not None})
    if devices:
        if any(row.latency_confidence is not None for row in rows):
            sure = speed_words.rounds((row.latency_confidence, row.latency_pairs) for row in rows)
            yield f"Latency: ratio to the plain model's with its {sure} interval; an interval alone: not resolved."
        yield f"Timed on {'; '.join(devices)}."
    if any(row.latency_contended for row in rows):
        yield "The machine was busy with something else while some rows were timed."
    seeds = sorted({len(row.accuracies) for row in rows if row.accuracies})
    if seeds and seeds[-1] > 1:
        yield f"Accuracy: mean of {' or '.join(map(str, seeds))} seeds, ± half of its 95 % interval."
