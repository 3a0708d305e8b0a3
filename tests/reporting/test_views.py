"""Whole-text goldens of every text view, and the JSON against its schema. UPDATE_GOLDENS=1 rewrites the goldens."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from attn_inject import AttnInjectError
from attn_inject.reporting import schema
from attn_inject.reporting.report import Report
from attn_inject.reporting.settings import Units
from attn_inject.reporting.views import words
from attn_inject.reporting.views.console import render_diff, to_text
from attn_inject.reporting.views.folding import fold

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


def test_folding_keeps_the_sums_and_the_order(fixed: Report) -> None:
    rows = fold(fixed.sites)
    assert [(row.name, row.count) for row in rows] == [("layer1.0 … 1", 2), ("layer2.0", 1), ("layer2.1", 1)]
    assert sum(row.added.parameters for row in rows) == sum(row.added.parameters for row in fixed.sites)
    assert [row.count for row in fold(fixed.sites, full=True)] == [1, 1, 1, 1]


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
    [(0, "0 s"), (2.5e-7, "250 ns"), (4.2e-5, "42.0 µs"), (0.0601, "60.1 ms"), (0.1, "100 ms"), (1.5, "1.50 s")],
)
def test_times(value: float, text: str) -> None:
    assert words.seconds(value) == text


def test_a_cpu_is_never_called_a_gpu(fixed: Report) -> None:
    titles = [words.speed_title(speed) for speed in fixed.speeds]
    assert titles == ["CPU speed, inference", "CUDA speed, training step"]
    assert "GPU" not in to_text(replace(fixed, speeds=fixed.speeds[:1]))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plots_are_written_in_the_format_of_their_ending(fixed: Report, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"chart.{ending}"
    fixed.plot(path)
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(start)
    again = tmp_path / f"again.{ending}"
    fixed.plot(again)
    assert again.read_bytes() == path.read_bytes()


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
