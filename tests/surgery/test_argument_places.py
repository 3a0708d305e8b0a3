"""A block that is given None by position before a tensor: the forward that `attach` writes takes both."""

from __future__ import annotations

import torch
from torch import nn

from attn_inject import attach

from .. import toys


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.z = toys.conv(16, 16), toys.conv(16, 16), toys.conv(16, 16, 1)

    def forward(
        self,
        x: torch.Tensor,
        shift: torch.Tensor | None = None,
        guide: torch.Tensor | None = None,
        cache: torch.Tensor | None = None,
    ) -> torch.Tensor:
        h = x if guide is None else x * self.z(guide)
        h = self.a(h.relu())
        h = h if shift is None else h + shift
        return x + self.b(h.relu() if cache is None else h.relu() + cache)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x, None, x, cache=None)
        return y


def test_none_before_a_tensor() -> None:
    x = torch.randn(2, 16, 8, 8)
    model = Net().eval()
    attached = attach(model, "se", example_inputs=x, reduction=4, init="identity", copy=True).eval()
    assert torch.equal(attached(x), model(x))
    assert toys.gates_run(attached, x) == 1
    # By name, too.
    assert torch.equal(attached.block(x, guide=x), model.block(x, guide=x))
