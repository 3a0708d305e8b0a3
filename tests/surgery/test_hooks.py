"""The gate of what has no forward to rewrite: a hook."""

from __future__ import annotations

import torch
from torch import nn

from attn_inject.surgery.hooks import Gate


class _Axes(nn.Module):
    """Adds one to the second channel, whichever axes follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        out[:, 1] += 1
        return out


def test_a_gate_passes_the_output_through_the_attention_of_the_block() -> None:
    holder = nn.Module()
    holder.se = _Axes()
    x = torch.zeros(2, 3, 4, 5)
    gate = Gate(holder, "se", None)
    assert torch.equal(gate(holder, (), x), holder.se(x))
    out = Gate(holder, "se", (0, 3, 1, 2))(holder, (), x)
    assert out.shape == x.shape
    assert torch.equal(out[..., 1], torch.ones(2, 3, 4))
    assert out.sum() == 2 * 3 * 4
    # What stands there when it runs, not what stood there when it was made.
    holder.se = nn.Identity()
    assert torch.equal(gate(holder, (), x), x)
