"""timm's own attended networks: their weights load strictly into ours, and the outputs are the same."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attn_inject import inject

PAIRS = {
    "seresnet50": ("resnet50", "se"),
    "ecaresnet50d": ("resnet50d", "eca"),
    "seresnet18": ("resnet18", "se"),
}


def _shaken(model: nn.Module) -> nn.Module:
    """timm starts the last norm of each branch at zero, which would hide every gate."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return model


@pytest.mark.parametrize("twin", ["seresnet50", "ecaresnet50d", "seresnet18"])
def test_strict_loading_and_equal_outputs(twin: str) -> None:
    plain, attention = PAIRS[twin]
    theirs = _shaken(timm.create_model(twin))
    ours = inject(timm.create_model(plain), attention, preset="timm")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    for mode in (False, True):
        torch.manual_seed(1)
        a = ours.train(mode)(x)
        torch.manual_seed(1)
        b = theirs.train(mode)(x)
        assert (a - b).abs().max() <= 1e-6
