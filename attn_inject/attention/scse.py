"""Concurrent spatial and channel squeeze and excitation: Roy, Navab, Wachinger, https://arxiv.org/abs/1803.02579

    cSE(U) = U * sigma(W_1 delta(W_2 avg U)),  C -> C/r -> C, r = 2
    sSE(U) = U * sigma(W_sq U), a 1x1 convolution to one channel
    scSE(U) = cSE(U) + sSE(U)

The journal version (https://arxiv.org/abs/1808.08127) tries other unions and prefers the larger of both at each place,
which the authors' later code does: `combine="max"`. The layers have biases in that code; the text names none
(`bias=False`).

Parameters: 2 C h + C, and with biases h + C + 1, with h = C/r.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import choice, for_each_position
from .layers import convolution
from .se import SE

fx.wrap("for_each_position")


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation.

    Args:
        channels: C of the maps. reduction: r of the channel part; the hidden width is C/r, at least 1, as in SE.
        combine: "add" or "max". bias: whether the layers have one. ndim: number of spatial axes, 1 to 3.
        init: "identity" zeroes the last layers; one half and one half then add up to 1, and for "max" each is doubled.

    Raises:
        AttentionError: a reduction below 1, another union or number of axes.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        reduction: float = 2,
        *,
        combine: str = "add",
        bias: bool = True,
        ndim: int = 2,
        init: str = "paper",
    ) -> None:
        super().__init__()
        self.added: bool = choice({"add": True, "max": False}, "combine", combine)
        self.channel = SE(channels, reduction, bias=bias, init=init)
        self.adjustments = self.channel.adjustments
        self.unmet = self.channel.unmet
        self.spatial = convolution(ndim)(channels, 1, 1, bias=bias)
        self.scale = 1.0 if self.added else self.channel.scale
        if init == "identity":
            for parameter in self.spatial.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        channel = torch.sigmoid(self.channel.logits(self.channel.pool(x))) * self.scale
        by_channel = for_each_position(channel, x)
        by_position = (torch.sigmoid(self.spatial(x)) * self.scale).to(x.dtype)
        # Not the larger weight: where x is negative, the larger product is that of the smaller one.
        return x * (by_channel + by_position) if self.added else torch.maximum(x * by_channel, x * by_position)
