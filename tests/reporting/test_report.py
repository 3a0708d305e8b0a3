"""What a report says of a toy net, against closed forms; and that parts always add up to totals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import attn_inject
from attn_inject.cost.amounts import Cost
from attn_inject.cost.latency import BenchSettings, Contest
from attn_inject.reporting.data import StepMemory
from attn_inject.reporting.memory import step_memory
from attn_inject.reporting.report import Report
from attn_inject.tracing.inputs import Inputs

from .conftest import Net


def sums(report: Report) -> Cost:
    return sum((row.added for row in report.sites), Cost()) + report.outside


def assert_adds_up(report: Report) -> None:
    """Sites and what lies outside make the difference of every total that is additive."""
    everything = sums(report)
    for name, value in {
        "parameters": everything.parameters,
        "buffers": everything.buffers,
        "MACs": everything.macs,
        "FLOPs": everything.flops,
        "activations": everything.activations,
        "activation bytes": everything.activation_bytes,
        "bytes read": everything.bytes_read,
        "bytes written": everything.bytes_written,
    }.items():
        assert report.total(name).difference == value, name
    assert sum((row.added for row in report.stages), Cost()) == sum((row.added for row in report.sites), Cost())


def test_se_in_closed_form(made: Report) -> None:
    """SE without biases: 2 C^2 / r parameters and as many MACs; C H W multiplications and pool additions each."""
    assert [row.block for row in made.sites] == ["blocks.0", "blocks.1", "blocks.2"]
    for row, (channels, size) in zip(made.sites, [(16, 16), (16, 16), (32, 8)], strict=True):
        weights, area = 2 * channels * channels // 4, channels * size * size
        assert (row.channels, row.size) == (channels, (size, size))
        assert row.added.parameters == weights
        assert row.added.macs == weights
        gate = channels // 4 + channels  # a ReLU and a sigmoid
        assert row.added.flops == 2 * weights + 2 * area + gate
    assert made.total("parameters").difference == 128 + 128 + 512
    assert_adds_up(made)


def test_the_papers_convention_leaves_only_macs(net: Net) -> None:
    patched = attn_inject.inject(net, "se", reduction=4, input_size=(3, 32, 32))
    report = attn_inject.report(net, patched, bench=False, convention="paper")
    assert report.total("FLOPs").before == 2 * report.total("MACs").before
    assert all(row.added.flops == 2 * row.added.macs for row in report.sites)
    assert_adds_up(report)


def test_what_is_replaced_is_taken_off(net: Net) -> None:
    patched = attn_inject.inject(net, "psa", placement="replace", include=["blocks.0"], input_size=(3, 32, 32))
    report = attn_inject.report(net, patched, bench=False)
    row = report.sites[0]
    assert row.replaces is not None
    held = sum(p.numel() for p in patched.get_submodule(row.module).parameters())
    gone = sum(p.numel() for p in net.get_submodule(row.replaces).parameters())
    assert row.added.parameters == held - gone != 0
    assert_adds_up(report)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x: torch.Tensor, mode: str, size: Any, *, scale: float = 1.0) -> torch.Tensor:
        x = nn.functional.interpolate(x, size=size, mode=mode)
        return x + self.conv(x) * scale


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.part = Scaled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(self.stem(x), "nearest", x.shape[2:], scale=2.0)


@pytest.mark.parametrize("verb", [attn_inject.inject, attn_inject.attach])
def test_a_scope_is_run_on_all_that_the_model_around_gives_it(verb: Any) -> None:
    model = Around().eval()
    report = attn_inject.report(model, verb(model, "se", reduction=4, scope="part"), bench=False)
    assert report.input_size == (8, 112, 112)
    # One multiplication by the scale for each value, and the convolutions on the size that it is given.
    assert report.total("MACs").before == (9 + 1) * 8 * 8 * 224 * 224


def test_a_scope_is_reported_on_alone() -> None:
    class Detector(nn.Module):
        """Reads values, so that neither tracing nor counting could take it whole."""

        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.body(x)
            return features[features > 0]

    model = Detector(Net())
    patched = attn_inject.inject(model, "eca", scope="body", input_size=(3, 32, 32))
    report = attn_inject.report(model, patched, bench=False)
    assert report.total("parameters").before == sum(p.numel() for p in model.body.parameters())
    assert "(body)" in report.title
    assert_adds_up(report)


def test_what_is_taken_out_is_named_shown_and_counted() -> None:
    with torch.device("meta"):
        model = timm.create_model("seresnet18")
    stripped = attn_inject.inject(model, "none", existing="replace")
    made = attn_inject.report(model, stripped, bench=False)
    assert made.title == "ResNet without its attention"
    assert made.notes[0].startswith("the channel attention of 8 blocks is taken out: layer1.0.se, layer1.1.se, ")
    assert sum(len(diff.blocks) for diff in made.diffs) == 8
    assert {line.mark for diff in made.diffs for line in diff.lines} == {"gone"}
    with torch.device("meta"):
        plain = timm.create_model("resnet18")
    assert made.total("parameters").after == sum(p.numel() for p in plain.parameters())
    assert_adds_up(made)


def test_a_model_against_itself_adds_nothing(net: Net) -> None:
    report = attn_inject.report(net, net, bench=False, input_size=(3, 32, 32))
    assert all(total.difference == 0 for total in report.totals)
    assert report.sites == ()


def test_neither_model_is_changed(net: Net) -> None:
    patched = attn_inject.inject(net, "se", reduction=4, input_size=(3, 32, 32))
    net.train()
    patched.eval()
    before = [copy.deepcopy(model.state_dict()) for model in (net, patched)]
    attn_inject.report(net, patched, bench_seconds=0.05, training=True, device="cpu", dtype="bf16", batch=2)
    assert net.training
    assert not patched.training
    for model, state in zip((net, patched), before, strict=True):
        assert all(value.equal(state[key]) for key, value in model.state_dict().items())
        assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


def test_timing_fills_in_speed_and_shares(net: Net) -> None:
    patched = attn_inject.inject(net, "se", reduction=4, input_size=(3, 32, 32))
    said: list[str] = []
    before = torch.get_num_threads()
    report = attn_inject.report(
        net,
        patched,
        bench_seconds=0.1,
        training=True,
        device="cpu",
        batch=2,
        threads=1,
        progress=lambda text, _: said.append(text),
    )
    inference, training = report.speeds
    assert (inference.task, training.task) == ("inference", "training step")
    assert inference.device_kind == "cpu"
    assert inference.batch == 2
    assert inference.floor_bytes == 2 * sums(report).traffic - sums_of_weights(report)
    assert inference.limited == (inference.pairs < 30)
    assert inference.threads == 1
    assert all(row.seconds is not None for row in report.sites)
    assert torch.get_num_threads() == before
    assert any("training step" in text for text in said)
    assert inference.memory is None
    memory = training.memory
    assert memory is not None
    assert memory.optimized is not None
    assert memory.before.kept_bytes < memory.optimized.kept_bytes < memory.after.kept_bytes
    assert memory.before.largest_batch > memory.optimized.largest_batch > memory.after.largest_batch > 0


def test_memory_of_models_without_a_graph_or_without_shapes(net: Net) -> None:
    def made(model: nn.Module) -> StepMemory | None:
        contest = Contest((net, model), Inputs((torch.randn(2, 3, 32, 32),)), BenchSettings(device="cpu"))
        return step_memory(contest)

    class Deciding(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.max() > 0 else -x)

    unpatched = made(net)
    assert unpatched is not None
    assert unpatched.before == unpatched.after
    assert unpatched.optimized is None
    assert made(Deciding()) is None


def sums_of_weights(report: Report) -> int:
    """Weights are read once a batch, not once an image: four bytes each."""
    return 4 * sums(report).parameters


def test_the_diff_marks_the_new_lines_once_per_shape_of_block(made: Report) -> None:
    assert [diff.blocks for diff in made.diffs] == [("blocks.0", "blocks.1"), ("blocks.2",)]
    first = made.diffs[0]
    assert [line.text for line in first.lines if line.mark == "new"] == ["se = self.se(bn)", "iadd = se + x"]
    assert [line.text for line in first.lines if line.mark == "gone"] == ["iadd = bn + x"]
    assert [node.name for node in first.after if node.mark == "new"] == ["se"]
    assert all(node.mark == "kept" for node in first.before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"convention": "mine"},
        {"units": "dozens"},
        {"bench_seconds": 0},
        {"batch": 0},
        {"dtype": "int8"},
        {"device": "abacus", "bench_seconds": 0.01},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_make_no_sense_are_refused(net: Net, wrong: dict[str, Any]) -> None:
    with pytest.raises(attn_inject.AttnInjectError):
        attn_inject.report(net, net, input_size=(3, 32, 32), **wrong)


def test_models_without_weights_are_counted_but_not_timed() -> None:
    with torch.device("meta"):
        model = Net()
    assert attn_inject.report(model, model, bench=False, input_size=(3, 32, 32)).total("MACs").before > 0
    with pytest.raises(attn_inject.AttnInjectError, match="bench=False"):
        attn_inject.report(model, model, input_size=(3, 32, 32))
