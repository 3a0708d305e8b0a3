"""Classes with another forward: their code, their copies, and what passes through attention meanwhile."""

from __future__ import annotations

import torch
from torch import nn

from attn_inject.tracing.own_code import passed_through


class _Axes(nn.Module):
    """Adds one to the second channel, whichever axes follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        out[:, 1] += 1
        return out


def test_what_a_child_returns_passes_through_the_attention_meanwhile() -> None:
    child, attention = nn.Identity(), _Axes()
    x = torch.zeros(2, 3, 4, 5)
    with passed_through(child, attention):
        assert torch.equal(child(x), attention(x))
    with passed_through(child, attention, (0, 3, 1, 2)):
        out = child(x)
    assert out.shape == x.shape
    assert torch.equal(out[..., 1], torch.ones(2, 3, 4))
    assert out.sum() == 2 * 3 * 4
    assert torch.equal(child(x), x)
    with torch.no_grad(), passed_through(child, attention):
        child(x)
    assert not child._forward_hooks
