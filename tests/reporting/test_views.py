"""Whole-text goldens of every text view, and the JSON against its schema. UPDATE_GOLDENS=1 rewrites the goldens."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from html import unescape
from io import StringIO
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from attn_inject import AttnInjectError
from attn_inject.reporting import schema
from attn_inject.reporting.report import Report
from attn_inject.reporting.settings import Units
from attn_inject.reporting.views import speed_words, words
from attn_inject.reporting.views.alike import alike
from attn_inject.reporting.views.console import render_diff, to_text
from attn_inject.reporting.views.plot import MOST_LABELS, along, charts, draw

GOLDENS = Path(__file__).parent / "goldens"


def assert_golden(name: str, text: str) -> None:
    path = GOLDENS / name
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_terminal(fixed: Report) -> None:
    text = to_text(fixed)
    assert max(map(len, text.splitlines())) <= 80
    assert_golden("terminal.txt", text)


def test_a_peak_that_fell_is_explained_where_it_stands(fixed: Report) -> None:
    said = "Peak activation bytes: a graph lets go of a block's input sooner than the model's own code does."
    peak = fixed.total("peak activation bytes")
    assert peak.difference < 0
    assert all(said in unescape(text) for text in in_views(fixed))
    rest = [total for total in fixed.totals if total is not peak]
    risen = replace(fixed, totals=(*rest, replace(peak, after=peak.before)))
    assert not any("lets go" in text for text in in_views(risen))


def test_wide_terminal_in_full(fixed: Report) -> None:
    assert_golden("terminal-full-120.txt", to_text(fixed, full=True, width=120))


def test_terminal_diff(fixed: Report) -> None:
    out = StringIO()
    console = Console(file=out, width=80, color_system=None)
    for part in render_diff(fixed):
        console.print(part)
    assert_golden("diff.txt", out.getvalue())


def test_markdown(fixed: Report) -> None:
    assert_golden("report.md", fixed.to_markdown(full=True, diff=True))


def test_json(fixed: Report) -> None:
    assert_golden("report.json", fixed.to_json() + "\n")


def test_the_terminal_prints_what_str_says(fixed: Report) -> None:
    out = StringIO()
    Console(file=out, width=80, color_system=None).print(fixed)
    assert [line.rstrip() for line in out.getvalue().splitlines()] == str(fixed).splitlines()


@pytest.mark.parametrize("which", ["fixed", "made"])
def test_json_is_what_the_schema_says(which: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(which)
    jsonschema.Draft202012Validator.check_schema(schema.REPORT)
    data = json.loads(report.to_json())
    jsonschema.validate(data, schema.REPORT, cls=jsonschema.Draft202012Validator)
    del data["totals"][0]["before"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema.REPORT, cls=jsonschema.Draft202012Validator)


def test_one_row_for_equal_sites_keeps_the_sums_and_the_order(fixed: Report) -> None:
    rows = alike(fixed.sites)
    assert [(row.name, row.count) for row in rows] == [("layer1.0 … 1", 2), ("layer2.0", 1), ("layer2.1", 1)]
    assert sum(row.added.parameters for row in rows) == sum(row.added.parameters for row in fixed.sites)
    assert [row.count for row in alike(fixed.sites, full=True)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("number", "units", "text"),
    [
        (0, "decimal", "0"),
        (999, "decimal", "999"),
        (25_557_032, "decimal", "25.56 M"),
        (25_557_032, "binary", "24.37 Mi"),  # the ECA paper's 24.37 M
        (4_089_184_256, "decimal", "4.09 G"),
        (-802_816, "decimal", "-802.8 k"),
    ],
)
def test_numbers_in_short(number: int, units: Units, text: str) -> None:
    assert words.short(number, units) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (2.5e-7, "250 ns"),
        (4.2e-5, "42.0 µs"),
        (0.0601, "60.1 ms"),
        (0.1, "100 ms"),
        (1.5, "1.50 s"),
        (3.88, "3.88 s"),
        (0.99996, "1.00 s"),
    ],
)
def test_times(value: float, text: str) -> None:
    assert words.seconds(value) == text


def test_a_cpu_is_never_called_a_gpu(fixed: Report) -> None:
    titles = [speed_words.title(speed) for speed in fixed.speeds]
    assert titles == ["CPU speed, inference", "CUDA speed, training step"]
    assert "GPU" not in to_text(replace(fixed, speeds=fixed.speeds[:1]))


def in_views(report: Report) -> list[str]:
    """Terminal, Markdown and page, each on one line."""
    page = re.sub("<[^>]*>", "", report.to_html())
    return [" ".join(text.split()) for text in (to_text(report), report.to_markdown(), page)]


@pytest.mark.parametrize(
    ("figures", "claim", "tile", "advice"),
    [
        (
            {"ratio": 0.874, "ratio_low": 0.63, "ratio_high": 1.12, "confidence": 0.5, "pairs": 2},
            "not resolved: between 0.63 and 1.12 (2 pairs, 50 %)",
            "0.63–1.12×",
            "to resolve it: --bench-seconds 6, --threads 1, a quiet machine",
        ),
        (
            {"ratio": 1.002, "ratio_low": 0.998, "ratio_high": 1.006, "pairs": 400, "limited": False, "threads": 1},
            "not resolved: between 0.998 and 1.006 (400 pairs, 95 %)",
            "0.998–1.006×",
            "to resolve it: --bench-seconds 12, a quiet machine",
        ),
    ],
)
def test_what_was_not_resolved_is_claimed_nowhere(
    fixed: Report, figures: dict[str, float], claim: str, tile: str, advice: str
) -> None:
    speed = replace(fixed.speeds[0], **{"threads": 2, **figures})
    unsure = replace(fixed, speeds=(speed,))
    for text in in_views(unsure):
        assert claim in text
        assert advice in text
        assert "times the time" not in text
        assert f"{speed.ratio:.3f}" not in text
    titles = [title for title in charts(unsure) if title.startswith("CPU speed")]
    assert titles == [f"CPU speed, inference\n{claim}\n{advice}"]
    sure = re.search(r"\(.*\)", claim)
    assert sure is not None
    below = f"{tile}the time, not resolved {sure[0]}: CPU speed, inference{advice}"
    assert below in in_views(unsure)[2]
    assert unsure.to_dict()["speeds"][0]["resolved"] is False


@pytest.mark.parametrize(
    ("elsewhere", "own", "sentence"),
    [
        (1.04, 1.5, "the machine was busy: other processes used 1.0 cores meanwhile"),
        (None, 0.5, "the machine was busy: this process got 0.5 cores for its 2 threads"),
    ],
)
def test_a_busy_machine_is_named(fixed: Report, elsewhere: float | None, own: float, sentence: str) -> None:
    speed = replace(fixed.speeds[0], threads=2, cores_used=own, cores_busy_elsewhere=elsewhere, contended=True)
    for text in in_views(replace(fixed, speeds=(speed,))):
        assert sentence in text
        # Enough pairs, in bad company: the interval is that of both as they ran there.
        assert "not resolved: between" in text
        assert "to resolve it: --threads 1, a quiet machine" in text
    assert not any("busy" in text for text in in_views(fixed))


def test_shares_that_were_not_resolved_are_no_percentages(fixed: Report) -> None:
    first, *others = fixed.sites
    unsure = replace(fixed, sites=(replace(first, time_share=None), *others))
    for text in in_views(unsure):
        assert "shares of the time were not resolved at 1 of 4 sites" in text
    assert "Share of the added time per site" not in charts(unsure)
    folded = to_text(unsure)
    assert "50 %" not in folded.partition("4 sites")[2].partition("By stage")[0]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plots_are_written_in_the_format_of_their_ending(fixed: Report, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"chart.{ending}"
    fixed.plot(path)
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(start)
    again = tmp_path / f"again.{ending}"
    fixed.plot(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("number", [1, 16, MOST_LABELS, MOST_LABELS + 1, 112, 500])
def test_names_along_an_axis_do_not_run_into_one_another(number: int) -> None:
    figure = draw({"sites": lambda axes: along(axes, [f"stages.{index}.blocks.{index}" for index in range(number)])})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = axes.get_xticklabels()
    assert 1 <= len(labels) <= min(number, MOST_LABELS)
    assert labels[0].get_text() == "stages.0.blocks.0"
    # Slanted lines of text stand as far apart as their starts, less the slant.
    places = [axes.transData.transform((float(label.get_position()[0]), 0))[0] for label in labels]
    apart = min((b - a for a, b in pairwise(places)), default=math.inf) * math.sin(
        math.radians(labels[0].get_rotation())
    )
    assert apart >= labels[0].get_fontsize() / 72 * figure.dpi
    told = f"{number} sites, {len(labels)} of them named" if len(labels) < number else ""
    assert axes.get_xlabel() == told


def test_a_plot_needs_a_known_ending_and_something_to_draw(fixed: Report, tmp_path: Path) -> None:
    with pytest.raises(AttnInjectError, match="png"):
        fixed.plot(tmp_path / "chart.doc")
    with pytest.raises(AttnInjectError, match="neither"):
        replace(fixed, sites=(), speeds=()).plot(tmp_path / "chart.png")


def test_methods_that_a_graph_leaves_behind_are_one_line(fixed: Report) -> None:
    methods = tuple(f"method {name}(): it runs the class's own code" for name in ("features", "head", "reset", "init"))
    hook = "forward hook on layer1: register it again, on a module that the graph calls"
    lines = [line for line in words.remarks(replace(fixed, not_kept=(*methods, hook))) if line.startswith("not kept")]
    assert lines == [
        f"not kept: {hook}",
        "not kept: 4 methods of the class's own code (features(), head(), reset(), ...): "
        "attach() and --form module keep them",
    ]
    assert f"not kept: {methods[0]}" in words.remarks(replace(fixed, not_kept=methods[:1]))
