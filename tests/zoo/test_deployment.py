"""A patched network goes wherever the original went: compilers, exporters, tracing, AMP, channels-last, DDP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import inject, save

from ..by_hand import by_hand

pytestmark = pytest.mark.zoo

SIZE = (3, 64, 64)
NETWORKS = (
    "torchvision:resnet18", "torchvision:regnet_y_400mf", "timm:convnext_atto",
)  # fmt: skip
# By hand: exporters take up to a minute for each.
MORE = (
    "torchvision:efficientnet_b0", "torchvision:mobilenet_v2", "torchvision:mnasnet0_5", "timm:resnet26d",
    "timm:dla46_c", "timm:repvit_m0_9", "timm:cs3darknet_s",
)  # fmt: skip
# float32 sums in another order, relative to the largest output; AMP computes in bf16.
CLOSE = 1e-4
BF16 = 5e-2


def _patched(name: str) -> nn.Module:
    library, _, plain = name.partition(":")
    torch.manual_seed(0)
    model = timm.create_model(plain) if library == "timm" else torchvision.models.get_model(plain)
    return inject(model, "eca", input_size=SIZE).eval()


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / b.abs().max().clamp(min=1e-6))


@pytest.mark.parametrize("name", by_hand([*NETWORKS, *MORE], lambda name: name in MORE))
def test_compilers_tracing_precision_and_layout(name: str, tmp_path: Path) -> None:
    model = _patched(name)
    x = torch.randn(2, *SIZE)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), expected)
        assert _apart(torch.jit.trace(model, x)(x), expected) <= CLOSE
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        exported = torch.export.export(model, (x,), dynamic_shapes=(batch,))
        assert _apart(exported.module()(x), expected) <= CLOSE
        assert (
            _apart(model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected)
            <= CLOSE
        )
        with torch.autocast("cpu", torch.bfloat16):
            assert _apart(model(x), expected) <= BF16
    save(model, tmp_path / "m.onnx")  # compares with onnxruntime, and refuses what differs


_DDP = """
import sys, torch, torchvision
import torch.distributed as dist
from attn_inject import inject

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
model = inject(torchvision.models.resnet18(), "se", input_size=(3, 64, 64)).train()
ddp = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
generator = torch.Generator().manual_seed(rank)
for _ in range(2):
    optimizer.zero_grad()
    ddp(torch.randn(2, 3, 64, 64, generator=generator)).square().mean().backward()
    optimizer.step()
torch.save(model.layer1[0].se.fc1.weight.detach(), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_stay_in_step(tmp_path: Path) -> None:
    ranks = [subprocess.Popen([sys.executable, "-c", _DDP, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    before = inject(torchvision.models.resnet18(), "se", input_size=SIZE).layer1[0].se.fc1.weight
    assert torch.equal(first, second)
    assert not torch.equal(first, before)


def test_fine_tuning_learns_and_leaves_frozen_weights_alone() -> None:
    """Which half of the image is brighter, on a patched resnet18; the stem is frozen."""
    torch.manual_seed(0)
    model = inject(torchvision.models.resnet18(num_classes=2), "se", input_size=(3, 32, 32)).train()
    model.conv1.weight.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 2e-4)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(200):
        x = torch.randn(8, 3, 32, 32, generator=generator)
        label = torch.randint(2, (8,), generator=generator)
        x[label == 1, :, :16] += 0.3
        x[label == 0, :, 16:] += 0.3
        loss = nn.functional.cross_entropy(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-50:]) / 50 < 0.25 * sum(losses[:10]) / 10
    moved = {name: not torch.equal(p, before[name]) for name, p in model.named_parameters()}
    assert not moved["conv1.weight"]
    assert all(moved[f"{i.module}.{fc}.weight"] for i in model.injection.plan.insertions for fc in ("fc1", "fc2"))
    assert sum(moved.values()) == len(moved) - 1
