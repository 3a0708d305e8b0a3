"""`Gates` in the terminal; everything fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from ...studying.data import GatesData
from ...types import counted
from . import gates_words
from .console import narrowed
from .fold_text import render_folding
from .plain import plain_text

_STYLES = {"pays": "green", "harms": "red", "constant": "cyan", "not seen": "dim"}
# From this width on, intervals have room beside a row for every site.
_WIDE = 110


def render(data: GatesData, *, full: bool = False, width: int = 80) -> Iterator[RenderableType]:
    """The gates as rich renderables; `full` gives every site a row of its own."""
    yield Text(data.title, style="bold")
    yield Text(gates_words.subtitle(data), style="yellow" if data.synthetic else "")
    if (score := gates_words.score(data)) is not None:
        yield Text(score)
    yield Text()
    intervals = full and width >= _WIDE
    yield narrowed(
        counted(len(data.sites), "site"),
        gates_words.table(data, full=full, intervals=intervals),
        wide=True,
    )
    yield Text(gates_words.legend(data, intervals=intervals), style="dim")
    lines = gates_words.verdicts(data)
    if lines:
        yield Text()
    for verdict, line in lines:
        yield Text(line, style=_STYLES[verdict])
    remarks = gates_words.remarks(data)
    if remarks:
        yield Text()
    for remark in remarks:
        yield Text(f"! {remark}", style="yellow")
    if data.folding is not None:
        yield Text()
        yield from render_folding(data.folding)


def to_text(data: GatesData, *, full: bool = False, width: int = 80) -> str:
    """The same as plain text."""
    return plain_text(render(data, full=full, width=width), width=width)
