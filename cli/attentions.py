"""`attn-inject attentions`: what can be put in, family by family."""

from __future__ import annotations

import json as json_text
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from attn_inject.attention.catalogue import FAMILIES, Entry, catalogue

from . import options
from .outputs import STDOUT, check_output, write_text
from .progress import working

_FAMILY = typer.Option("--family", metavar="NAME", show_default=False, help=f"Only one of {', '.join(FAMILIES)}.")
_HEAD = ("at C=256", "year", "optimize", "axes", "export", "paper")
_LEGEND = (
    "optimize: early, the pool moves before the last 1x1 convolution, and gate and add are one pass; add, the latter "
    "alone. axes: of the maps (2: images). export: torch.export and ONNX take it, with batch and image size open "
    "(--out writes files of one image size).",
    "Your own: --attention package.module:Class or file.py:Class. To take attention out: none. "
    "Options: -a se:reduction=4,bias=true or --option KEY=VALUE; a wrong one is answered with the right ones.",
)
# From here on a summary stands beside its figures, below that under them.
_WIDE = 112


def command(
    family: Annotated[str | None, _FAMILY] = None, json: options.Json = None, force: options.Force = False
) -> None:
    """List the attentions by family, with their parameters at 256 channels and what they can do."""
    path = check_output(json, "--json", force=force, stdout=True)
    with working("listing the attentions (once per installed version)"):
        entries = catalogue(family)
    if path is not None:
        write_text(path, json_text.dumps([{**asdict(entry), "exports": entry.exports} for entry in entries], indent=2))
    if path != STDOUT:
        print(*_lines(entries, shutil.get_terminal_size().columns), sep="\n")


def _lines(entries: list[Entry], columns: int) -> Iterator[str]:
    rows = {entry.name: _cells(entry) for entry in entries}
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows.values(), strict=True)]
    label = 2 + max(map(len, rows))
    yield f"{'':{label}}  {_row(_HEAD, widths)}".rstrip()
    for family, group in groupby(entries, key=lambda entry: entry.family):
        yield family or "timm's own, for images"
        for entry in group:
            figures = f"{'  ' + entry.name:{label}}  {_row(rows[entry.name], widths)}"
            yield from _with_text(figures, _text(entry), columns)
    for paragraph in _LEGEND:
        yield ""
        yield from textwrap.wrap(paragraph, min(columns, 100), break_on_hyphens=False)


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    """Numbers to the right, words to the left."""
    first, *rest = (f"{cell:{'>' if i == 0 else '<'}{widths[i]}}" for i, cell in enumerate(cells))
    return "  ".join([first, *rest])


def _cells(entry: Entry) -> tuple[str, ...]:
    exports = {True: "yes", False: "no", None: ""}[entry.exports]
    rewrites = "early" if entry.early_squeeze else "add" if entry.gate_add else "-"
    axes = ",".join(map(str, entry.axes))
    return (f"{entry.parameters:,}", str(entry.year or ""), rewrites, axes, exports, entry.paper)


def _text(entry: Entry) -> str:
    plain = entry.name.removeprefix("timm:")
    return entry.summary + (f" (beside {plain}: {entry.unlike})" if entry.unlike else "")


def _with_text(figures: str, text: str, columns: int) -> Iterator[str]:
    if columns >= _WIDE:
        yield from textwrap.wrap(
            text, columns, initial_indent=f"{figures}  ", subsequent_indent=" " * (len(figures) + 2)
        )
    else:
        yield figures.rstrip()
        yield from textwrap.wrap(text, columns, initial_indent=" " * 6, subsequent_indent=" " * 6)
