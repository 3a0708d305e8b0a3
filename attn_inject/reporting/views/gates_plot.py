"""The charts of what gates do: weights by percentile of the channels and by depth, classes, effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from ...errors import AttnInjectError
from ...studying.data import GateRow, GatesData
from ...types import block_name
from . import gates_words
from .plot import AFTER, BEFORE, GRID, Chart, along, draw, effects, named, save

_HEAT = "viridis"


def charts(data: GatesData) -> Mapping[str, Chart]:
    """The charts that there is data for, by title."""
    rows = [row for row in data.sites if row.percentiles]
    found: dict[str, Chart] = {}
    if rows:
        found["Mean weights: sites and percentiles of their channels"] = _heat(rows)
        found["Weights by depth: median, middle and all channels"] = _depth(rows)
    if any(row.between for row in rows):
        found["Share of the spread between classes"] = _between(rows)
        selective = max((row for row in rows if row.selective), key=lambda row: row.between or 0)
        found[f"By class: most selective channels of {block_name(selective.block)}"] = _classes(selective, data)
    if gates_words.has_effects(data):
        measured = [row for row in data.sites if row.frozen is not None]
        found["What is lost with the weights frozen to their means"] = _effects(measured, data)
    return found


def save_plot(data: GatesData, path: str | Path) -> None:
    """Draw the charts into a file."""
    found = charts(data)
    if not found:
        raise AttnInjectError("no site has weights to draw")
    figure = draw(found)
    if data.synthetic:
        figure.suptitle("SYNTHETIC NOISE, not images", color="#b45309", fontsize=10)
    save(figure, path)


def _heat(rows: Sequence[GateRow]) -> Chart:
    def chart(axes: Axes) -> None:
        top = max(1.0, *(row.top for row in rows))
        image = axes.imshow([row.percentiles for row in rows], aspect="auto", cmap=_HEAT, vmin=0, vmax=top)
        axes.set_xticks(range(0, 11, 2), [f"{10 * tick}" for tick in range(0, 11, 2)])
        axes.set_xlabel("percentile of the channels")
        axes.set_yticks(*named([block_name(row.block) for row in rows]))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.figure.colorbar(image, ax=axes, label="mean weight")

    return chart


def _depth(rows: Sequence[GateRow]) -> Chart:
    def chart(axes: Axes) -> None:
        places = range(len(rows))

        def at(percentile: int) -> list[float]:
            return [row.percentiles[percentile // 10] for row in rows]

        axes.fill_between(places, at(0), at(100), color=GRID, label="all channels", linewidth=0)
        axes.fill_between(places, at(10), at(90), color="#bfdbfe", label="10th to 90th percentile", linewidth=0)
        axes.plot(places, at(50), color=AFTER, marker="o", markersize=3, label="median channel")
        axes.set_ylabel("mean weight")
        axes.set_ylim(bottom=min(0.0, *at(0)))
        axes.legend(frameon=False, fontsize=7)
        along(axes, [block_name(row.block) for row in rows])

    return chart


def _between(rows: Sequence[GateRow]) -> Chart:
    def chart(axes: Axes) -> None:
        axes.bar(range(len(rows)), [100 * (row.between or 0) for row in rows], color=AFTER)
        axes.set_ylabel("% of the spread")
        along(axes, [block_name(row.block) for row in rows])

    return chart


def _classes(row: GateRow, data: GatesData) -> Chart:
    def chart(axes: Axes) -> None:
        image = axes.imshow([one.class_means for one in row.selective], aspect="auto", cmap=_HEAT)
        axes.set_yticks(range(len(row.selective)), [f"{one.channel}" for one in row.selective])
        axes.set_ylabel("channel")
        few = len(data.classes) <= 20
        axes.set_xticks(range(len(data.classes)) if few else [], [str(name) for name in data.classes] if few else [])
        axes.set_xlabel("class")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.figure.colorbar(image, ax=axes, label="mean weight")

    return chart


def _effects(rows: Sequence[GateRow], data: GatesData) -> Chart:
    scale = 1.0 if data.measure == "loss" else 100.0

    def chart(axes: Axes) -> None:
        colours = [AFTER if row.verdict(data.measure) == "pays" else BEFORE for row in rows]
        effects(axes, [row.frozen for row in rows if row.frozen is not None], colours, scale)
        axes.set_ylabel(gates_words.unit(data))
        along(axes, [block_name(row.block) for row in rows])

    return chart
