"""What an optimized network launches for each site, counted without a GPU: kernels, and operations but views."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from attn_inject import inject, optimize
from attn_inject.optimizing import gate_kernel
from attn_inject.optimizing.optimized import fold_norms

# They give another view of the same memory, or memory that nothing has been written to.
FREE = ("detach", "empty", "empty_like", "new_empty")


class Launches(TorchDispatchMode):
    """Counts the operations that a GPU would run a kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def launched(model: nn.Module, images: int) -> list[str]:
    with torch.no_grad(), Launches() as seen:
        model(torch.randn(images, 3, 64, 64))
    return seen.names


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that note that they were launched, in the place of the GPU's."""
    noted: list[str] = []

    def gate_add(branch: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        noted.append("gate_add")
        return branch

    def two_layers(pooled: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: Any, *_: Any, **__: Any) -> Any:
        noted.append("two_layers")
        return pooled.new_empty(len(pooled), len(w2))

    monkeypatch.setattr(gate_kernel, "_kernels", lambda: SimpleNamespace(gate_add=gate_add, two_layers=two_layers))
    monkeypatch.setattr(gate_kernel, "_may_launch", lambda *tensors: not torch.is_grad_enabled())
    monkeypatch.setattr(gate_kernel, "_launched", lambda kernel, *args, **kwargs: kernel(*args, **kwargs))
    return noted


@pytest.mark.slow
@pytest.mark.parametrize("block", [Bottleneck, BasicBlock])
@pytest.mark.parametrize(
    ("attention", "images", "most"),
    [("se", 1, 3), ("se", 32, 3), ("eca", 1, 3), ("eca", 32, 3)],
)
def test_a_site_launches_few_kernels(attention: str, images: int, most: int, block: Any, kernels: list[str]) -> None:
    """A pool, the gate's layers, and one pass that gates, adds and clips, in the place of the plain add and ReLU."""
    torch.manual_seed(0)
    model = ResNet(block, [1, 1, 1, 1]).eval()
    fast = optimize(inject(model, attention, input_size=64).eval())
    kernels.clear()
    plain, ours = launched(fold_norms(model), images), launched(fast, images)
    assert kernels.count("gate_add") == 4
    assert kernels.count("two_layers") == (4 if attention == "se" else 0)
    assert len(ours) + len(kernels) - (len(plain) - 2 * 4) <= most * 4
