"""Counting leaves a model alone whose modules and weights stand under several names."""

from __future__ import annotations

import torch
from torch import nn

from attn_inject.cost.counting import count


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.again = nn.Sequential(self.conv, nn.BatchNorm2d(3))
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.conv.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.again(self.conv(x)))


def test_nothing_stays_on_meta() -> None:
    model = Shared().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    counted = count(model, (torch.empty(1, 3, 8, 8),))
    assert counted.total.macs == 3 * 3 * 3 * 9 * 64
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert model.tied.weight is model.conv.weight
