"""Convolutional Block Attention Module: Woo, Park, Lee, Kweon, "CBAM", https://arxiv.org/abs/1807.06521

    F'  = F * M_c(F),    M_c(F) = sigma(MLP(avg F) + MLP(max F)), over the spatial axes     (equations 1 and 2)
    F'' = F' * M_s(F'),  M_s(F) = sigma(conv_k([avg F; max F])), over the channels          (equations 1 and 3)

one MLP C -> C/r -> C for both pools, r = 16; k = 7. The authors' code differs from the text: the MLP's layers have
biases, a batch norm (momentum 0.01) follows the convolution, and the maximum comes first in the concatenation. That is
the default; `bias=False, norm=False` is the text, but for that order, which is one of the weights alone.

ultralytics' module of that name has the spatial gate and, for the channels, one layer over the average alone.

Parameters: 2 C h + (C + h with biases) + 2 k^n (+ 2 with the norm), with h = C/r and n spatial axes.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import for_each_position, spatial_mean
from .layers import Norm, convolution, odd, spatial_max
from .se import SE

fx.wrap("for_each_position")
fx.wrap("spatial_mean")
fx.wrap("spatial_max")


class CBAM(nn.Module):
    """Convolutional Block Attention Module: a gate for the channels, then one for the positions.

    Args:
        channels: C of the maps. reduction: r; the hidden width is C/r, at least 1, as in SE.
        kernel: of the convolution over [max; avg], odd.
        bias: whether the MLP's layers have one. norm: whether a batch norm follows the convolution.
        ndim: number of spatial axes, 1 to 3.
        init: "identity" zeroes what comes before each sigmoid and doubles it, so that both gates start at exactly 1.

    Raises:
        AttentionError: a reduction below 1, an even kernel, or another number of axes.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        reduction: float = 16,
        *,
        kernel: int = 7,
        bias: bool = True,
        norm: bool = True,
        ndim: int = 2,
        init: str = "paper",
    ) -> None:
        super().__init__()
        self.channel = SE(channels, reduction, bias=bias, init=init)
        self.adjustments = self.channel.adjustments
        self.unmet = self.channel.unmet
        self.conv = convolution(ndim)(2, 1, odd("kernel", kernel), padding=kernel // 2, bias=False)
        self.norm: nn.Module = Norm(1, momentum=0.01) if norm else nn.Identity()
        self.scale = self.channel.scale
        if init == "identity":
            nn.init.zeros_(self.norm.weight if isinstance(self.norm, Norm) else self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        logits = self.channel.logits(spatial_mean(x)) + self.channel.logits(spatial_max(x))
        x = x * for_each_position(self.channel.open(logits), x)
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        weights = torch.sigmoid(self.norm(self.conv(pooled))) * self.scale
        return x * weights.to(x.dtype)
