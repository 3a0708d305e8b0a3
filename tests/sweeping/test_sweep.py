"""The verb in one process: every row exact against a report, what fails is a row, what means nothing is refused."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import (
    AttentionError,
    AttnInjectError,
    PlanError,
    SourceError,
    inject,
    register_attention,
    report,
    sweep,
)
from attn_inject.attention import registry
from attn_inject.sweeping.table import SweepTable
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source

SIZE = {"input_size": 16}


@pytest.mark.slow
def test_rows_are_what_a_report_says(nets: Path) -> None:
    table = sweep(
        ["nets.py:net", "nets.py:wide"],
        ["se:reduction=4", "eca"],
        options=[SIZE, {**SIZE, "placement": "post"}],
        latency=False,
        processes=0,
    )
    assert [(row.model, row.attention, row.placement) for row in table[:4]] == [
        ("nets.py:net", "se:reduction=4", "standard"),
        ("nets.py:net", "se:reduction=4", "post"),
        ("nets.py:net", "eca", "standard"),
        ("nets.py:net", "eca", "post"),
    ]
    assert len(table) == 8
    for row in table:
        model = build(parse_source(row.model), device="meta")
        made = report(model, inject(model, row.attention, placement=row.placement, **SIZE), bench=False)
        totals = [made.total(name) for name in ("parameters", "MACs", "FLOPs")]
        traffic = [made.total(name) for name in ("bytes read", "bytes written")]
        assert (row.parameters, row.macs, row.flops) == tuple(total.difference for total in totals)
        assert (row.model_parameters, row.model_macs, row.model_flops) == tuple(total.before for total in totals)
        assert row.traffic == sum(total.difference for total in traffic)
        assert row.traffic_ratio == sum(t.after for t in traffic) / sum(t.before for t in traffic)
        assert (row.sites, row.error, row.options) == (len(made.sites), None, '{"input_size": 16}')
        assert row.versions is not None
        assert f"torch {torch.__version__.partition('+')[0]}" in row.versions
        assert row.latency_ratio is None


def test_latency_is_the_race_of_compare(nets: Path) -> None:
    (row,) = sweep("nets.py:net", "se", options=SIZE, processes=0, bench_seconds=0.2, device="cpu", batch=2)
    assert row.latency_low is not None
    assert row.latency_ratio is not None
    assert row.latency_high is not None
    assert row.latency_low <= row.latency_ratio <= row.latency_high
    assert (row.latency_pairs or 0) > 0
    assert row.latency_resolved is not None
    assert row.device is not None
    assert "batch 2" in row.device


def test_what_fails_is_a_row(nets: Path) -> None:
    models = ["nets.py:broken", "nets.py:plain", "nets.py:missing", "nets.py:net"]
    table = sweep(models, ["se"], options=SIZE, latency=False, processes=0)
    assert [row.error is None for row in table] == [False, False, False, True]
    assert "RuntimeError: no such depth (nets.py" in str(table[0].error)
    assert "no sites" in str(table[1].error)
    assert "there is no 'missing' in nets.py" in str(table[2].error)
    assert table.errors == table[:3]
    assert all("\n" not in str(row.error) for row in table)


def test_an_unexpected_error_is_named(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("attn_inject.sweeping.work.candidates_of", explode)
    (row,) = sweep("nets.py:net", "se", latency=False, processes=0)
    assert row.error == "ZeroDivisionError: of ours"


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"models": "resnet81"}, SourceError, "resnet18"),
        ({"models": "resnyt*"}, SourceError, "no model's name matches 'resnyt*'"),
        ({"models": []}, AttnInjectError, "no model"),
        ({"attentions": []}, AttnInjectError, "no attention"),
        ({"attentions": ["se", "sea"]}, AttentionError, "did you mean se"),
        ({"attentions": ["se:reductoin=4"]}, AttentionError, "did you mean reduction"),
        ({"options": {"placement": "top"}}, PlanError, "placement must be one of"),
        ({"options": [{}, {"placement": "top"}]}, PlanError, "placement must be one of"),
        ({"options": {"reductoin": 4}}, AttentionError, "did you mean reduction"),
        ({"attentions": "none", "options": {"existing": "replace", "reduction": 4}}, PlanError, "has no options"),
        ({"train": "nets.py:nothing"}, AttnInjectError, "there is no 'nothing' in nets.py"),
        ({"seeds": 0}, AttnInjectError, "seeds"),
        ({"seeds": 2}, AttnInjectError, "give train, or leave them out"),
        ({"processes": -1}, AttnInjectError, "processes"),
        ({"out": "folder.csv"}, AttnInjectError, "folder.csv is a folder"),
        ({"out": "table.xls"}, AttnInjectError, ".csv or .parquet"),
        ({"out": "nowhere/table.csv"}, AttnInjectError, "nowhere"),
        ({"models": nn.Linear(1, 1), "processes": 2}, AttnInjectError, "stay here"),
        ({"models": [nn.Linear(1, 1), nn.Linear(2, 2)]}, AttnInjectError, "two models are called Linear"),
    ],
)
def test_what_means_nothing_is_refused_before_any_work(
    nets: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict, error: type, said: str
) -> None:
    monkeypatch.setattr("attn_inject.sweeping.sweep.make_row", lambda *_: pytest.fail("work was begun"))
    (nets / "folder.csv").mkdir()
    given = {"models": "nets.py:net", "attentions": "se", "processes": 0, "latency": False, **arguments}
    with pytest.raises(error, match=said.replace("*", r"\*")):
        sweep(given.pop("models"), given.pop("attentions"), **given)
    assert not list(nets.glob("*.journal"))


def test_globs_are_names_and_nothing_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_inject.sweeping.sweep.make_row", lambda wish, _: wish.row())
    table = sweep(["cifar:resnet2*", "cifar:resnet20"], ["se", "se"], processes=0)
    assert [(row.model, row.attention) for row in table] == [("cifar:resnet20", "se")]
    assert len(sweep("wide_resnet*_2", "se", processes=0)) >= 2


@pytest.mark.slow
def test_every_seed_has_a_model_of_its_own(nets: Path) -> None:
    state = torch.random.get_rng_state()
    asked = {"options": SIZE, "latency": False, "processes": 0, "seeds": 3}
    (row,) = sweep("nets.py:net", "se", train="nets.py:counted", **asked)
    assert row.accuracies is not None
    assert len(set(row.accuracies)) == 3
    assert torch.equal(state, torch.random.get_rng_state())
    again = sweep("nets.py:net", "se", train="nets.py:counted", **asked)[0]
    assert again.accuracies == row.accuracies
    gated, plain = sweep("nets.py:net", ["se", "none"], train="nets.py:gates", **asked)
    assert gated.accuracies == pytest.approx((2, 2.1, 2.2))
    assert gated.accuracy == pytest.approx(2.1)
    # Student's 4.303 for two degrees of freedom, times 0.1 / sqrt(3).
    assert gated.accuracy_high == pytest.approx(2.1 + 4.30265 * 0.1 / 3**0.5)
    assert plain.accuracies == pytest.approx((0, 0.1, 0.2))
    assert (plain.sites, plain.parameters, plain.traffic_ratio, plain.placement) == (0, 0, 1.0, "")


def test_a_train_function_that_fails_leaves_the_counts(nets: Path) -> None:
    asked = {"options": SIZE, "latency": False, "processes": 0}
    (row,) = sweep("nets.py:net", "se", train="nets.py:fails", **asked)
    assert row.sites == 2
    assert row.error is not None
    assert row.error.startswith("training with seed 0 ended in KeyError: 'accuracy' (nets.py")
    assert "gave a str" in str(sweep("nets.py:net", "se", train="nets.py:wrong", **asked)[0].error)
    odd = sweep("nets.py:net", "se", train=lambda model, seed: float("nan"), **asked)[0]
    assert odd.error == "the train function gave an accuracy of nan"


def test_objects_stay_in_this_process(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_inject.sweeping.sweep.in_processes", lambda *_: pytest.fail("it left"))
    model = build(parse_source("nets.py:net"))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def make() -> nn.Module:
        return build(parse_source("nets.py:wide"))

    def train(patched: nn.Module, seed: int) -> float:
        for parameter in patched.parameters():
            parameter.data.zero_()
        return seed

    table = sweep([model, make], ["eca"], options=SIZE, latency=False, train=train, seeds=2)
    assert [(row.model, row.sites, row.accuracies) for row in table] == [("Sequential", 2, (0, 1)), ("make", 2, (0, 1))]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    halved = functools.partial(nn.Identity, 2)
    (row,) = sweep(functools.partial(make), halved, options={**SIZE, "kinds": ("plain",)}, latency=False)
    assert (row.model, row.attention) == (f"{__name__}:{make.__qualname__}", "torch.nn.modules.linear:Identity")
    assert "gave a int" in str(sweep(lambda: 3, "se", latency=False)[0].error)
    monkeypatch.setattr(registry, "_registered", {})
    register_attention("mine", nn.Identity)
    sweep("nets.py:net", "mine", latency=False)


def test_the_same_call_goes_on(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"options": SIZE, "latency": False, "processes": 0, "out": "table.csv"}
    first = sweep(["nets.py:net", "nets.py:broken"], ["se"], **asked)
    assert SweepTable.read("table.csv") == first
    monkeypatch.setattr("attn_inject.sweeping.sweep.make_row", lambda wish, _: wish.row(error="made anew"))
    assert sweep(["nets.py:net", "nets.py:broken"], ["se"], **asked) == first
    # A sweep may grow, and rows that nobody asks for stay in the journal.
    assert [row.error for row in sweep(["nets.py:net"], ["eca", "se"], **asked)] == ["made anew", None]
    assert sweep(["nets.py:net", "nets.py:broken"], ["se"], **asked) == first
    again = sweep(["nets.py:net", "nets.py:broken"], ["se"], retry_errors=True, **asked)
    assert [row.error for row in again] == [None, "made anew"]
    with pytest.raises(
        AttnInjectError, match=r"another sweep \(train was None and is nets.py:gates now, seeds was None"
    ):
        sweep(["nets.py:net"], ["se"], train="nets.py:gates", **asked)


def test_progress_is_told(nets: Path) -> None:
    told: list[tuple[str, float]] = []
    sweep(
        "nets.py:net", ["se", "eca"], options=SIZE, latency=False, processes=0, progress=lambda *each: told.append(each)
    )
    assert told == [("1 of 2: nets.py:net + se", 0.5), ("2 of 2: nets.py:net + eca", 1.0)]


def test_rows_of_a_file_that_was_changed_are_made_again(nets: Path) -> None:
    own = nets / "own.py"
    text = "from nets import net\n\ndef train(model, seed=0):\n    return {accuracy}\n"
    own.write_text(text.format(accuracy=0.25))

    def swept(*models: str) -> list[float | None]:
        table = sweep(models, "eca", options=SIZE, latency=False, processes=0, train="own.py:train", out=nets / "t.csv")
        return [row.accuracy for row in table]

    assert swept("own.py:net") == [0.25]
    journal = (nets / "t.csv.journal").read_bytes()
    assert swept("own.py:net") == [0.25]
    assert (nets / "t.csv.journal").read_bytes() == journal
    own.write_text(text.format(accuracy=0.75))
    assert swept("own.py:net") == [0.75]
    assert swept("own.py:net", "nets.py:net") == [0.75, 0.75]
    # What is in the journal is found again when the file is what it was.
    own.write_text(text.format(accuracy=0.25))
    assert swept("own.py:net") == [0.25]


def test_rows_of_objects_that_were_changed_are_made_again(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models the layers tell, since a new process has other random weights."""
    monkeypatch.setattr(registry, "_registered", {})
    made: Counter[str] = Counter()

    def swept(model: nn.Module, attention: Any, accuracy: float) -> tuple[int | None, float | None]:
        def train(patched: nn.Module, seed: int) -> float:
            made["trained"] += 1
            return accuracy

        asked: dict[str, Any] = {"options": SIZE, "latency": False, "out": nets / "t.csv"}
        (row,) = sweep(model, attention, train=train, **asked)
        return row.parameters, row.accuracy

    def net(width: int) -> nn.Module:
        return build(parse_source("nets.py:net", model_args={"width": width}))

    narrow = swept(net(16), "eca", 0.25)
    assert narrow[1] == 0.25
    assert swept(net(16), "eca", 0.25) == narrow
    assert made["trained"] == 1
    assert swept(net(16), "eca", 0.75)[1] == 0.75
    assert swept(net(32), "se", 0.25)[0] != swept(net(16), "se", 0.25)[0]
    register_attention("mine", lambda channels: nn.Conv2d(channels, channels, 1))
    first = swept(net(16), "mine", 0.25)
    registry._registered.clear()
    register_attention("mine", lambda channels: nn.Conv2d(channels, channels, 3, padding=1))
    assert swept(net(16), "mine", 0.25)[0] != first[0]
