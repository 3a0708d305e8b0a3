"""One report with fixed figures for the goldens, and one of a real injection into a toy net."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import attn_inject
from attn_inject.cost.amounts import Cost
from attn_inject.cost.samples import Timing
from attn_inject.reporting.data import (
    BlockDiff,
    BlockNode,
    BlockRow,
    DiffLine,
    Keeping,
    Quantity,
    SiteRow,
    Speed,
    StageRow,
    StepMemory,
)
from attn_inject.reporting.report import Report
from attn_inject.types import Check


class Block(nn.Module):
    """1x1, 3x3, 1x1 and a skip; a strided block has a projection on its shortcut."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        entering = width // stride
        self.conv1 = nn.Conv2d(entering, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(entering, width, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv3(self.relu(self.conv2(self.relu(self.conv1(x))))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Net(nn.Module):
    """A stem and three residual blocks: 16 channels at half the size, then 32 at a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.blocks = nn.Sequential(Block(16), Block(16), Block(32, stride=2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def made(net: Net) -> Report:
    """SE with reduction 4 in all three blocks, counted but not timed."""
    patched = attn_inject.inject(net, "se", reduction=4, input_size=(3, 32, 32))
    return attn_inject.report(net, patched, bench=False)


def _site(block: str, stage: int, channels: int, size: int, share: float) -> SiteRow:
    added = Cost(
        parameters=channels * channels // 8,
        macs=channels * channels // 8,
        flops=channels * channels // 4 + 2 * channels * size * size,
        activations=channels * size * size,
        activation_bytes=4 * channels * size * size,
        bytes_read=8 * channels * size * size,
        bytes_written=4 * channels * size * size,
    )
    return SiteRow(
        block, "residual", stage, channels, (size, size), 1, "standard", "se", {"reduction": 16}, f"{block}.se", None,
        added, seconds=share * 1e-5, time_share=share,
    )  # fmt: skip


@pytest.fixture
def fixed() -> Report:
    """Figures that no machine has a say in, with everything in it that a view can show."""
    sites = (
        _site("layer1.0", 2, 256, 56, 25.0),
        _site("layer1.1", 2, 256, 56, 25.0),
        _site("layer2.0", 3, 512, 28, 30.0),
        replace(_site("layer2.1", 3, 512, 28, 20.0), calls=2),
    )
    stages = tuple(
        StageRow(n, 2, sum((row.added for row in sites if row.stage == n), Cost()), 5e-4, 50.0) for n in (2, 3)
    )
    speed = Speed(
        task="inference", device_kind="cpu", device="Some Processor, 2 threads", clock="torch.utils.benchmark timer",
        dtype="float32", batch=1, channels_last=False, compiled=False,
        before=Timing(0.0601, 0.0598, 0.0612, 16.64, None), after=Timing(0.0640, 0.0633, 0.0651, 15.63, None),
        ratio=1.065, ratio_low=1.041, ratio_high=1.09, confidence=0.95, pairs=24, pairs_wanted=30, limited=True,
        seconds_limit=3.0, floor_bytes=40_000_000, floor_seconds=0.0031, bandwidth=1.29e10,
    )  # fmt: skip
    training = replace(
        speed, task="training step", device_kind="cuda", device="Some GPU", clock="CUDA events", dtype="bfloat16",
        batch=64, channels_last=True, compiled=True, pairs=200, limited=False,
        floor_bytes=None, floor_seconds=None, bandwidth=None,
        before=replace(speed.before, peak_bytes=3_100_000_000), after=replace(speed.after, peak_bytes=3_400_000_000),
        memory=StepMemory(
            24_000_000_000, Keeping(2_751_234_567, 552), Keeping(3_460_000_000, 438), Keeping(2_760_000_000, 550)
        ),
    )  # fmt: skip
    kept = BlockNode("conv", "conv", "kept", ("x",))
    diff = BlockDiff(
        blocks=("layer1.0", "layer1.1"),
        lines=(
            DiffLine("kept", "conv = self.conv(x)"),
            DiffLine("gone", "add = conv + x"),
            DiffLine("new", "se = self.se(conv)"),
            DiffLine("new", "add = se + x"),
        ),
        before=(BlockNode("x", "x", "kept", ()), kept, BlockNode("add", "+", "kept", ("conv", "x"))),
        after=(
            BlockNode("x", "x", "kept", ()),
            kept,
            BlockNode("se", "se", "new", ("conv",)),
            BlockNode("add", "+", "kept", ("se", "x")),
        ),
    )
    block = BlockRow(
        ("layer1.0",), 2, (56, 56),
        Cost(parameters=75_008, macs=1_000_000_000, bytes_read=40_000_000, bytes_written=20_000_000),
        Cost(bytes_read=10_000_000, bytes_written=5_000_000),
    )  # fmt: skip
    return Report(
        title="torchvision:resnet50 + se",
        input_size=(3, 224, 224),
        dtype="float32",
        convention="all",
        units="decimal",
        totals=(
            Quantity("parameters", "count", 25_557_032, 25_638_952),
            Quantity("buffers", "count", 53_173, 53_173),
            Quantity("MACs", "operations", 4_089_184_256, 4_089_266_176),
            Quantity("FLOPs", "operations", 8_217_632_232, 8_222_613_992),
            Quantity("bytes read", "bytes", 275_756_704, 288_601_504),
            Quantity("bytes written", "bytes", 151_836_832, 174_095_936),
            Quantity("peak activation bytes", "bytes", 11_040_768, 10_237_952),
        ),
        sites=sites,
        stages=stages,
        outside=Cost(flops=-1000, bytes_read=500),
        speeds=(speed, training),
        unknown={"aten.odd.default": 2},
        diffs=(diff,),
        notes=("layer1.0 already has channel attention: the new one is stacked after it",),
        not_kept=("method forward_features()",),
        checks=(Check("weights", True, "320 kept"), Check("gradients", False, "1 of 8 is zero")),
        versions={"torch": "2.9.0"},
        blocks=(
            BlockRow(("conv1", "bn1"), 1, (112, 112), Cost(parameters=9_536, macs=118_013_952, bytes_read=8_000_000)),
            replace(block, paths=("layer1.0",), sites=("layer1.0.se",)),
            replace(
                block, paths=("layer1.1",), cost=replace(block.cost, bytes_read=90_000_000), sites=("layer1.1.se",)
            ),
            replace(block, paths=("layer2.0",), stage=3, size=(28, 28), sites=("layer2.0.se",)),
            BlockRow(("fc",), None, (), Cost(parameters=2_049_000, macs=2_048_000, bytes_read=8_204_192)),
        ),
        made="2026-01-02T03:04+00:00",
        command="attn-inject resnet50 --attention se",
    )
