"""Triplet attention: Misra, Nalamada, Arasanipalai, Hou, "Rotate to Attend: Convolutional Triplet Attention Module",
https://arxiv.org/abs/2010.03045

    Z-pool over an axis: [max; mean]
    w_a = sigma(BN(conv_k(Z-pool over axis a))),  for each axis a of (C, H, W), k = 7
    out = 1/3 (x w_C + x w_H + x w_W)                                                  (section 3.2)

With n spatial axes there are n + 1 gates, each a convolution over the n axes that its pool leaves, in the map's order
(the authors' code turns one of its three maps the other way around: its kernel is ours transposed).
`spatial=False` leaves out the gate that pools the channels, as the authors' `no_spatial`.

Trained under `torch.compile` at a second image size it ends in an error of torch 2.14's inductor, as the authors'
module does; with `dynamic=False` it does not.

Parameters: (n + 1) (2 k^n + 2); they do not depend on C.
"""

from __future__ import annotations

import torch
from torch import nn

from .gating import whole_number
from .layers import Norm, convolution, odd


class TripletAttention(nn.Module):
    """Triplet attention.

    Args:
        channels: C of the maps; nothing depends on it. kernel: k, odd.
        spatial: whether there is a gate over the positions, beside those between channels and positions.
        ndim: number of spatial axes, 1 to 3.
        init: "identity" zeroes the norms' weights and doubles the gates, so that their mean starts at exactly 1.

    Raises:
        AttentionError: an even kernel, or another number of axes.

    """

    traced_whole = True

    def __init__(
        self, channels: int, kernel: int = 7, *, spatial: bool = True, ndim: int = 2, init: str = "paper"
    ) -> None:
        super().__init__()
        conv = convolution(ndim)
        whole_number("channels", channels)
        odd("kernel", kernel)
        self.adjustments: tuple[str, ...] = ()
        self.first = 1 if spatial else 2
        self.count = ndim + 1 if spatial else ndim
        self.convs = nn.ModuleList(conv(2, 1, kernel, padding=kernel // 2, bias=False) for _ in range(self.count))
        self.norms = nn.ModuleList(Norm(1, momentum=0.01) for _ in range(self.count))
        self.scale = 1.0
        if init == "identity":
            self.scale = 2.0
            for norm in self.norms:
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        total = x[:0].new_zeros([])
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):  # noqa: B905  # for torch.jit
            axis = self.first + i
            pooled = torch.stack([x.amax(axis), x.mean(axis)], 1)
            total = total + torch.sigmoid(norm(conv(pooled))).squeeze(1).unsqueeze(axis)
        return x * (total / self.count * self.scale).to(x.dtype)
