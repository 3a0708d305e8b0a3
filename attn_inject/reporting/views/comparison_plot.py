"""A `Comparison` as one chart: parameters against latency (or FLOPs), the Pareto front drawn through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..comparison import Candidate, ComparisonData
from . import speed_words, words
from .plot import AFTER, INK, Chart, draw, save

_SHAPES = "osD^vP"


def save_plot(comparison: ComparisonData, path: str | Path) -> None:
    """Write the chart; the file's ending picks the format."""
    save(draw(charts(comparison)), path)


def charts(comparison: ComparisonData) -> Mapping[str, Chart]:
    """The one chart, by its title."""
    return {f"Parameters against {comparison.measure}": lambda axes: _chart(comparison, axes)}


def _chart(comparison: ComparisonData, axes: Axes) -> None:
    """One colour a candidate, one shape a model; names stand in a legend, since points lie close together."""
    made = [each for each in comparison.candidates if each.problem is None]
    models = list(dict.fromkeys(each.model for each in made))
    for index, each in enumerate(made):
        plain = each.attention == "none"
        if comparison.measure == "latency" and each.ratio and each.ratio_low and each.ratio_high:
            parameters, middle = _point(comparison, each)
            ends = [middle * bound / each.ratio for bound in (each.ratio_low, each.ratio_high)]
            reach = [[abs(middle - end)] for end in ends]
            axes.errorbar(parameters, middle, yerr=reach, color=f"C{index % 10}", capsize=4, elinewidth=1.2, zorder=0)
        axes.plot(
            *_point(comparison, each),
            _SHAPES[models.index(each.model) % len(_SHAPES)],
            color=INK if plain else f"C{index % 10}",
            markeredgecolor=AFTER if each.on_front else "white",
            markeredgewidth=2 if each.on_front else 0.5,
            markersize=9,
            label=each.name(several=len(models) > 1) + (" ★" if each.on_front else "") + _doubt(each),
        )
    for model in models:
        front = sorted(_point(comparison, each) for each in made if each.on_front and each.model == model)
        axes.plot(*zip(*front, strict=True), "--", color=AFTER, linewidth=1, zorder=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set(xscale="log", yscale="log")

    def count(value: float, _: int | None) -> str:
        return words.tick(value, comparison.units)

    for axis, text in ((axes.xaxis, count), (axes.yaxis, _milliseconds if comparison.measure == "latency" else count)):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(text))
        axis.set_minor_locator(NullLocator())
    axes.set_ylabel("FLOPs" if comparison.measure == "FLOPs" else _latency(made))
    axes.set_xlabel("parameters" if comparison.device is None else f"parameters\n{comparison.device}")


def _latency(made: Sequence[Candidate]) -> str:
    """What the axis and its bars are."""
    if not any(each.confidence is not None for each in made):
        return "ms per batch"
    return f"ms per batch; bars: {speed_words.rounds((each.confidence, each.pairs) for each in made)}"


def _doubt(each: Candidate) -> str:
    return " (time not resolved)" if each.confidence is not None and not each.resolved else ""


def _milliseconds(value: float, _: int | None) -> str:
    return f"{value:g}"


def _point(comparison: ComparisonData, each: Candidate) -> tuple[float, float]:
    second = 1e3 * (each.seconds or 0) if comparison.measure == "latency" else (each.flops or 0)
    return float(each.parameters or 0), float(second)
