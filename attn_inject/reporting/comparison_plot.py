"""A `Comparison` as one chart: parameters against latency (or FLOPs), the Pareto front drawn through."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from . import words
from .comparison import Candidate, Comparison
from .plot import AFTER, BEFORE, INK, draw, save


def save_plot(comparison: Comparison, path: str | Path) -> None:
    """Write the chart; the file's ending picks the format."""
    title = f"Parameters against {comparison.measure}"
    if comparison.device is not None:
        title += f", {comparison.device}"
    save(draw({title: lambda axes: _chart(comparison, axes)}), path)


def _chart(comparison: Comparison, axes: Axes) -> None:
    made = [each for each in comparison.candidates if each.problem is None]
    several = len({each.model for each in made}) > 1
    for each in made:
        point = _point(comparison, each)
        color = INK if each.attention == "none" else AFTER if each.on_front else BEFORE
        axes.plot(*point, "s" if each.attention == "none" else "o", color=color, markersize=7)
        plain = each.attention == "none"
        name = each.model if plain else f"{each.model} + {each.label}" if several else each.label
        axes.annotate(name, point, xytext=(6, 5), textcoords="offset points", fontsize=8)
    front = sorted(_point(comparison, each) for each in made if each.on_front)
    axes.plot(*zip(*front, strict=True), "--", color=AFTER, linewidth=1, zorder=0)
    axes.margins(0.15)
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(lambda value, _: words.tick(value, comparison.units))
    if comparison.measure == "latency":
        axes.set_ylabel("ms per batch")
    else:
        axes.set_ylabel("FLOPs")
        axes.yaxis.set_major_formatter(lambda value, _: words.tick(value, comparison.units))


def _point(comparison: Comparison, each: Candidate) -> tuple[float, float]:
    second = 1e3 * (each.seconds or 0) if comparison.measure == "latency" else (each.flops or 0)
    return float(each.parameters or 0), float(second)
