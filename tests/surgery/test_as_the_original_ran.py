"""Identity is judged under what the original ran under."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject, verify

from .. import toys


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = toys.conv(16, 16), toys.conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(self.a(x).relu())


class TwoTowers(nn.Module):
    """As CLIP: torch's attention multiplies in another order where its weights want no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = toys.conv(3, 16), Block()
        self.embed = nn.Embedding(100, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mask: torch.Tensor
        self.register_buffer("mask", torch.full((16, 16), float("-inf")).triu_(1), persistent=False)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        t = self.embed(text)
        t = self.attention(t, t, t, need_weights=False, attn_mask=self.mask)[0]
        return self.block(self.stem(image)).mean((2, 3)), t.mean(1)


@pytest.mark.parametrize("put", [inject, attach])
def test_a_tower_of_torchs_attention_starts_as_it_was(put: Any) -> None:
    torch.manual_seed(0)
    model = TwoTowers().eval()
    given = torch.randn(2, 3, 32, 32), torch.zeros(2, 16, dtype=torch.long)
    patched = put(model, "se", example_inputs=given, reduction=4, init="identity", copy=True)
    assert verify(model, patched).passed
    with torch.no_grad():
        assert all(map(torch.equal, patched.eval()(*given), model(*given)))
    assert toys.gates_run(patched, *given) == 1
