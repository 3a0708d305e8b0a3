"""The whole network at a glance: its blocks by stage, as wide as what they cost, sites marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from ...cost.amounts import Cost
from ..data import BlockRow, ReportData
from . import words
from .alike import span

COSTS: dict[str, tuple[str, Callable[[Cost], int]]] = {
    "traffic": ("memory traffic", lambda cost: cost.traffic),
    "macs": ("MACs", lambda cost: cost.macs),
    "parameters": ("parameters", lambda cost: cost.parameters),
}
"""What a block may be as wide as, by the word of the style sheet."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One block: its name, its numbers in words, the number of its diff, and its widths as a style."""

    name: str
    numbers: str
    diff: int | None
    is_site: bool
    style: str


@dataclass(frozen=True, slots=True)
class Stage:
    """All blocks whose maps are of one stage, in order of execution."""

    name: str
    size: str
    pieces: tuple[Piece, ...]


def strip(report: ReportData) -> list[Stage]:
    """The stages from the largest maps to the smallest, last what gives no map."""
    numbers = sorted({row.stage for row in report.blocks}, key=lambda stage: (stage is None, stage))
    groups = {number: [row for row in report.blocks if row.stage == number] for number in numbers}
    widest = {
        key: max((sum(max(0, of(row.cost + row.added)) for row in rows) for rows in groups.values()), default=0)
        for key, (_, of) in COSTS.items()
    }
    return [
        Stage(
            name="no map" if number is None else f"stage {number}",
            size="" if number is None else words.size(max((row.size for row in rows), key=prod)),
            pieces=tuple(_piece(row, report, widest) for row in rows),
        )
        for number, rows in groups.items()
    ]


def _piece(row: BlockRow, report: ReportData, widest: dict[str, int]) -> Piece:
    styles = []
    for key, (_, of) in COSTS.items():
        before, after = of(row.cost), of(row.cost + row.added)
        styles.append(f"--{key}:{100 * max(0, after) / (widest[key] or 1):.2f}%")
        styles.append(f"--{key}-more:{100 * max(0, after - before) / (after or 1):.1f}%")
    return Piece(span(row.paths), _numbers(row, report), _diff(row, report), bool(row.sites), ";".join(styles))


def _numbers(row: BlockRow, report: ReportData) -> str:
    parts = [words.size(row.size)] if row.size else []
    for key, (name, of) in COSTS.items():
        unit = "B" if key == "traffic" else ""
        held = words.short(of(row.cost), report.units, unit)
        more = of(row.added)
        parts.append(f"{name} {held}" + (f" {words.signed(more, report.units, unit)}" if more else ""))
    if row.sites:
        parts.append(f"attention: {', '.join(row.sites)}")
    return " · ".join(parts)


def _diff(row: BlockRow, report: ReportData) -> int | None:
    """The number of the diff that shows one of the row's blocks, or a block in it."""
    return next(
        (i for i, diff in enumerate(report.diffs) if any(_is_in(row.paths, each) for each in diff.blocks)), None
    )


def _is_in(paths: Sequence[str], block: str) -> bool:
    return any(block == path or (path != "" and block.startswith(f"{path}.")) for path in paths)
