"""Modules with hooks are taken to pieces by no rewrite: what the hooks change is changed in the faster model too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from attn_inject import attach, inject, optimize, optimize_training

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.Conv2d(8, 16, 1)
        self.norm, self.act = nn.BatchNorm2d(16), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.act(self.norm(self.wide(torch.relu(self.narrow(x)))) + x)
        return out


def _made() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(toys.conv(16, 16), Bottleneck(), Bottleneck()).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
    return model


def _halved(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
    return out * 0.5


def _clamped(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
    return out.clamp(-0.3, 0.3)


CHANGES: dict[str, Any] = {
    "convolution": lambda block: block.wide.register_forward_hook(_halved),
    "what it is given": lambda block: block.wide.register_forward_pre_hook(lambda _, given: (given[0] * 0.5,)),
    "norm": lambda block: block.norm.register_forward_hook(_clamped),
    "gate": lambda block: block.se.register_forward_hook(_halved),
    "within the gate": lambda block: block.se.fc1.register_forward_hook(_halved),
    "activation": lambda block: block.act.register_forward_hook(_halved),
    "pruned": lambda block: prune.random_unstructured(block.wide, "weight", 0.5),
    "pruned gate": lambda block: prune.random_unstructured(block.se.fc1, "weight", 0.5),
    "weight norm": lambda block: nn.utils.weight_norm(block.narrow),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.slow
def test_what_hooks_change_is_changed(change: str, form: Any) -> None:
    patched = form(_made(), "se", input_size=SIZE, reduction=4)
    CHANGES[change](patched.get_submodule("1"))
    patched.train()(IMAGE).sum().backward()
    patched.eval()
    faster = optimize(patched)
    torch.testing.assert_close(faster(IMAGE), patched(IMAGE))
    # The other block has none.
    assert faster.rewritten.norms_folded >= 1
    assert faster.rewritten.adds_fused >= 1
    trained = optimize_training(patched).train()
    torch.testing.assert_close(trained(IMAGE), patched.train()(IMAGE))
