"""A sweep's rows as a comparison: the figures are those of `compare` itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from attn_inject import AttnInjectError, compare, sweep
from attn_inject.planning.choices import Choices
from attn_inject.reporting import schema
from attn_inject.sweeping.rows import Row
from attn_inject.sweeping.table import SweepTable

PLACED = [{"input_size": 16}, {"input_size": 16, "placement": "pre"}]


@pytest.mark.slow
def test_it_is_the_comparison_that_compare_makes(nets: Path) -> None:
    models = ["nets.py:net", "nets.py:wide"]
    table = sweep(models, ["se", "eca"], options=PLACED, latency=False, processes=0, out="t.csv")
    wishes = [Choices(attention=name, **placed) for name in ("se", "eca") for placed in PLACED]
    made = compare(models, wishes, bench=False)
    assert SweepTable.read("t.csv").comparison() == table.comparison() == made
    jsonschema.validate(json.loads(made.to_json()), schema.COMPARISON)


@pytest.mark.slow
def test_accuracies_failures_and_options_are_in_it(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = sweep(
        ["nets.py:net", "nets.py:broken"],
        ["se", "none"],
        options=[{"input_size": 16}, {"input_size": 16, "init": "identity"}],
        latency=False,
        processes=0,
        train="nets.py:gates",
        seeds=2,
    )
    made = table.comparison()
    good = [each for each in made.candidates if each.problem is None]
    assert [each.attention for each in good] == [
        "none",
        'se {"input_size": 16}',
        'se {"init": "identity", "input_size": 16}',
    ]
    assert [each.accuracy for each in good] == pytest.approx([0.05, 2.05, 2.05])
    assert [each.model for each in made.candidates if each.problem is not None] == ["nets.py:broken"] * 3
    jsonschema.validate(json.loads(made.to_json()), schema.COMPARISON)
    Console(width=80).print(made)
    shown = capsys.readouterr().out
    assert "2.05 ± 0.64" in shown
    assert "mean over the seeds" in shown
    assert "no such depth" in " ".join(shown.split())
    assert "| 2.05 ± 0.64 |" in made.to_markdown()


@pytest.mark.slow
def test_times_are_the_tables(nets: Path) -> None:
    table = sweep("nets.py:net", ["se", "eca"], options=PLACED[:1], processes=0, bench_seconds=0.2, device="cpu")
    made = table.comparison()
    assert made.measure == "latency"
    assert made.device == table[0].device
    plain, se, eca = made.candidates
    assert (plain.seconds, plain.ratio) == (table[0].model_latency_seconds, 1.0)
    assert (se.seconds, se.ratio, se.ratio_low) == (
        table[0].latency_seconds,
        table[0].latency_ratio,
        table[0].latency_low,
    )
    assert (eca.resolved, eca.ratio_high) == (table[1].latency_resolved, table[1].latency_high)


def test_what_cannot_be_compared_is_told(nets: Path) -> None:
    with pytest.raises(AttnInjectError, match="nothing to compare$"):
        SweepTable(()).comparison()
    with pytest.raises(AttnInjectError, match="nothing to compare: it broke"):
        SweepTable((Row(model="m", attention="se", error="it broke"),)).comparison()
    (row,) = sweep("nets.py:net", "se", options=PLACED[:1], latency=False, processes=0)
    with pytest.raises(AttnInjectError, match="different conventions"):
        SweepTable((row, replace(row, convention="paper"))).comparison()
