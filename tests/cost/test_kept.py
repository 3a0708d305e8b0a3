"""What is kept for the backward pass: by hand for small networks, and as autograd has it for a real step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from attn_inject import TraceError, attach, inject, optimize_training
from attn_inject.attention.catalogue import catalogue
from attn_inject.cost.kept import Kept, kept_for_backward
from attn_inject.tracing.inputs import Inputs

from ..bench.memory import kept_by
from ..one_process import group


def _image(size: int = 32, batch: int = 2) -> Inputs:
    return Inputs((torch.empty(batch, 3, size, size),))


def test_by_hand() -> None:
    """A convolution keeps its input, a ReLU its output, a linear layer its input; weights are there anyway."""
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 2))
    kept = kept_for_backward(model, _image(4), 6)
    image, out = 3 * 16 * 4, 5 * 16 * 4
    weights = (3 * 5 + 5 + 5 * 16 * 2 + 2) * 4
    assert kept == Kept(batch=6, kept=6 * (image + out), constant=0, fixed=2 * weights)
    assert kept.largest_batch(2 * weights + 10 * (image + out) + 7) == 10
    assert kept.largest_batch(weights) == 0
    halves = kept_for_backward(model, _image(4), 6, dtype=torch.bfloat16)
    assert (halves.kept, halves.fixed) == (kept.kept // 2, kept.fixed // 2)
    model.requires_grad_(requires_grad=False)
    assert kept_for_backward(model, _image(4), 6) == Kept(6, 0, 0, weights)
    assert Kept(6, 0, 0, weights).largest_batch(10**9) == 0


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_it_is_what_a_real_step_keeps(block: type[nn.Module]) -> None:
    model = ResNet(block, [1, 1, 1, 1])
    for each in (model, inject(model, "se"), optimize_training(inject(model, "se"))):
        own = {t.untyped_storage().data_ptr() for t in (*each.parameters(), *each.buffers())}
        found: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, found: dict[int, torch.Tensor] = found) -> torch.Tensor:
            return found.setdefault(tensor.untyped_storage().data_ptr(), tensor)

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = each.train()(torch.randn(2, 3, 32, 32))
        real = sum(t.untyped_storage().nbytes() for place, t in found.items() if place not in own)
        assert kept_for_backward(each, _image(), 2).kept == real
        del out


@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("torchvision:resnet50", marks=pytest.mark.zoo),
        "torchvision:resnet18",
        pytest.param("torchvision:mobilenet_v2", marks=pytest.mark.zoo),
        pytest.param("torchvision:convnext_tiny", marks=pytest.mark.zoo),
        pytest.param("timm:convnext_tiny", marks=pytest.mark.zoo),
        pytest.param("timm:regnetx_032", marks=pytest.mark.zoo),
    ],
)
def test_attention_keeps_no_map(name: str, attention: str) -> None:
    """At most 1.01 times what the plain network keeps, which ordinary autograd does not reach."""
    home, _, model_name = name.partition(":")
    with torch.device("meta"):
        model = torchvision.models.get_model(model_name) if home == "torchvision" else timm.create_model(model_name)
    patched = inject(model, attention)
    plain, before, after = (
        kept_for_backward(each, _image(224), 4).kept for each in (model, patched, optimize_training(patched))
    )
    assert after <= 1.01 * plain
    assert after <= before


@pytest.mark.slow
@pytest.mark.parametrize("attention", [entry.name for entry in catalogue() if entry.gate_add])
def test_no_pure_gate_keeps_a_map(attention: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    patched = inject(model, attention)
    plain, before, after = (
        kept_for_backward(each, _image(224), 4).kept for each in (model, patched, optimize_training(patched))
    )
    assert after <= 1.01 * plain < before


def _frozen(model: nn.Module) -> nn.Module:
    """In train mode, with norms that use the statistics they have."""
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


# How a network is trained: what a step runs, and the model as it is then.
WAYS: dict[str, Callable[[nn.Module], tuple[Callable[[torch.Tensor], object], nn.Module]]] = {
    "as it is": lambda model: (model, model.train()),
    "channels last": lambda model: (model, model.train().to(memory_format=torch.channels_last)),
    "frozen norms": lambda model: (model, _frozen(model)),
    "distributed": lambda model: (nn.parallel.DistributedDataParallel(model.train()), model),
    "checkpointed": lambda model: (partial(checkpoint, model.train(), use_reentrant=False), model),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_trained(way: str, form: Any, tmp_path: Path) -> None:
    """Bytes that autograd holds after a real forward pass; without gradients it holds none."""
    model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10)
    # Vectors are kept, of which a small map has few.
    x = torch.randn(2, 3, 128, 128)
    if way == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    with group(tmp_path):
        patched = form(copy.deepcopy(model), "se")
        plain, before, after = (kept_by(*WAYS[way](each), x) for each in (model, patched, optimize_training(patched)))
    assert after <= 1.01 * plain
    assert after <= before
    assert before > 1.1 * plain or way == "checkpointed"
    fast = optimize_training(patched).train()
    with torch.no_grad():
        assert kept_by(fast, fast, x) == 0


def test_what_cannot_run_without_data() -> None:
    class Deciding(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.max() > 0 else -x

    with pytest.raises(TraceError, match="without real data"):
        kept_for_backward(Deciding(), _image(), 1)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)).eval()
    before = copy.deepcopy(model.state_dict())
    kept_for_backward(model, _image(), 2)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
