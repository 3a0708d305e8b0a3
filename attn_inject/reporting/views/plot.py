"""The charts of a report, drawn with matplotlib: one file of all of them, or each as an SVG for the HTML page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...cost.samples import Timing
from ...errors import AttnInjectError
from ...files.atomic import write_atomically
from ...types import Effect, block_name
from ..data import ReportData, Speed
from . import speed_words, words

Chart = Callable[[Axes], None]

BEFORE, AFTER, INK, GRID = "#9aa5b1", "#2563eb", "#334155", "#e2e8f0"
_STAGES = ("#93c5fd", "#60a5fa", "#3b82f6", "#2563eb", "#1e40af", "#172554")
# What page.css calls these, in light and in dark.
_OF_THE_PAGE = {
    BEFORE: "before",
    AFTER: "new",
    INK: "ink",
    GRID: "line",
    **{colour: f"stage-{number}" for number, colour in enumerate(_STAGES, start=1) if colour != AFTER},
}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 8.5,
    "grid.color": GRID,
    "svg.fonttype": "none",  # text stays text: small, sharp, and can be searched
    "svg.hashsalt": "attn-inject",  # the same report gives the same file
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
# The most names along an axis; of more sites every n-th is named.
MOST_LABELS = 28


def charts(report: ReportData) -> Mapping[str, Chart]:
    """The charts that this report has data for, by title."""
    found: dict[str, Chart] = {}
    if report.sites:
        added = [row.added for row in report.sites]
        found["Parameters added per site"] = _per_site(report, [cost.parameters for cost in added], "parameters")
        found["FLOPs added per site"] = _per_site(report, [cost.flops for cost in added], "FLOPs")
        found["Memory traffic added per site"] = _per_site(report, [cost.traffic for cost in added], "bytes")
    shares = [row.time_share for row in report.sites if row.time_share is not None]
    if shares and len(shares) == len(report.sites):
        found["Share of the added time per site"] = _per_site(report, shares, "% of the time in new modules")
    for speed in report.speeds:
        found[_speed_title(speed)] = _latency((speed.before, speed.after))
    return found


def _speed_title(speed: Speed) -> str:
    title = speed_words.title(speed)
    if speed.resolved:
        return f"{title}: {speed.ratio:.3f}×"
    return f"{title}\n{speed_words.ratio(speed)}\n{speed_words.to_resolve(speed)}"


def draw(found: Mapping[str, Chart]) -> Figure:
    """All charts in one figure, two in a row."""
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4 * columns, 3.0 * rows), layout="constrained")
        for index, (title, chart) in enumerate(found.items(), start=1):
            axes = figure.add_subplot(rows, columns, index)
            axes.set_title(title)
            chart(axes)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the ending picks the format.

    Raises:
        AttnInjectError: an ending that matplotlib cannot write, or a file that cannot be written.

    """
    formats = figure.canvas.get_supported_filetypes()
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in formats:
        raise AttnInjectError(f"a plot cannot be written as {Path(path).name!r}; end it in .png, .svg or .pdf")
    metadata = {"Date": None} if ending == "svg" else None
    with mpl.rc_context(_STYLE):
        write_atomically(Path(path), partial(figure.savefig, format=ending, dpi=160, metadata=metadata))


def save_plot(report: ReportData, path: str | Path) -> None:
    """Draw a report's charts into a file."""
    found = charts(report)
    if not found:
        raise AttnInjectError("this report has neither sites nor timings to draw")
    save(draw(found), path)


def svg(title: str, chart: Chart) -> str:
    """One chart as an SVG element of a page, in the page's colours, without the prologue of a file of its own."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        draw({title: chart}).savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    for colour, name in _OF_THE_PAGE.items():
        text = text.replace(f": {colour}", f": var(--{name})")
    return text[text.index("<svg") :]


def _per_site(report: ReportData, values: Sequence[float], unit: str) -> Chart:
    def chart(axes: Axes) -> None:
        axes.bar(range(len(values)), values, color=[_STAGES[min(row.stage, len(_STAGES)) - 1] for row in report.sites])
        along(axes, [block_name(row.block) for row in report.sites])
        axes.set_ylabel(unit)
        if not unit.startswith("%"):
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(lambda value, _: words.tick(value, report.units))

    return chart


def effects(axes: Axes, found: Sequence[Effect], colours: Sequence[str], scale: float = 1.0) -> None:
    """Means as points with their intervals, and a line at 0."""
    means = [scale * each.mean for each in found]
    reach = [_reach(each, scale) for each in found]
    axes.errorbar(
        range(len(means)), means, yerr=list(zip(*reach, strict=True)), fmt="none", ecolor=INK, capsize=2, linewidth=0.8
    )
    axes.scatter(range(len(means)), means, color=colours, s=22, zorder=3)
    axes.axhline(0, color=INK, linewidth=0.8)


def _reach(effect: Effect, scale: float) -> tuple[float, float]:
    """How far the interval reaches below and above the mean."""
    if effect.low is None or effect.high is None:
        return 0.0, 0.0
    return scale * max(0.0, effect.mean - effect.low), scale * max(0.0, effect.high - effect.mean)


def named(names: Sequence[str]) -> tuple[Sequence[int], Sequence[str]]:
    """The places along an axis that get a name, and their names: every n-th, if there is no room for all."""
    step = max(1, -(-len(names) // MOST_LABELS))
    return range(0, len(names), step), names[::step]


def along(axes: Axes, names: Sequence[str]) -> None:
    """Sites along the x axis, by the names of their blocks: all of them, or as many as can be read."""
    places, shown = named(names)
    axes.set_xticks(places, shown)
    axes.tick_params(axis="x", rotation=60, labelsize=7, length=0)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    if len(shown) < len(names):
        axes.set_xlabel(f"{len(names)} sites, {len(shown)} of them named")
    axes.margins(x=0.01)
    axes.grid(visible=False, axis="x")


def _latency(timings: Sequence[Timing]) -> Chart:
    scale, unit = (1.0, "s") if max(timing.median for timing in timings) >= 1 else (1e3, "ms")
    medians = [timing.median * scale for timing in timings]
    below = [(timing.median - timing.low_quartile) * scale for timing in timings]
    above = [(timing.high_quartile - timing.median) * scale for timing in timings]

    def chart(axes: Axes) -> None:
        bars = axes.barh(
            ["before", "after"], medians, xerr=[below, above], color=[BEFORE, AFTER], ecolor=INK, capsize=3
        )
        axes.bar_label(bars, [words.seconds(timing.median) for timing in timings], padding=6)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{unit} per batch, median and middle half")

    return chart
