"""Coordinate attention: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design",
https://arxiv.org/abs/2103.02907

    z^h = mean over the width, z^w = mean over the height                      (equations 4 and 5)
    f   = delta(BN(F_1([z^h, z^w]))), C -> C/r, BN over all strips together    (equation 6)
    g^h = sigma(F_h(f^h)), g^w = sigma(F_w(f^w))                               (equations 7 and 8)
    out = x * g^h * g^w                                                        (equation 9)

r = 32, C/r at least 8, delta the hard swish and biases in the convolutions, as in the authors' code. With
another number of spatial axes there is a strip, an F and a gate for each.

Parameters: C m + 2 m + n m C, and with biases m + n C more, with m the hidden width and n the number of spatial axes.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import ACTIVATIONS, choice, whole_number
from .layers import Norm, along, convolution, strip_mean
from .se import hidden_width

fx.wrap("along")
fx.wrap("strip_mean")


class CoordinateAttention(nn.Module):
    """Coordinate attention.

    Args:
        channels: C of the maps. reduction: r. min_width: the least hidden width.
        act: the activation between the layers. bias: whether the convolutions have one.
        ndim: number of spatial axes, 1 to 3.
        init: "identity" zeroes the last layers and doubles the gates, so that each starts at exactly 1.

    Raises:
        AttentionError: widths or a reduction below 1, an unknown activation, or another number of axes.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        reduction: float = 32,
        *,
        min_width: int = 8,
        act: str = "hardswish",
        bias: bool = True,
        ndim: int = 2,
        init: str = "paper",
    ) -> None:
        super().__init__()
        convolution(ndim)
        self.adjustments: tuple[str, ...] = ()
        self.ndim = ndim
        hidden = hidden_width(whole_number("channels", channels), reduction, min_width=min_width)
        self.conv = nn.Conv1d(channels, hidden, 1, bias=bias)
        self.norm = Norm(hidden)
        self.act = choice(ACTIVATIONS, "act", act)
        self.gates = nn.ModuleList(nn.Conv1d(hidden, channels, 1, bias=bias) for _ in range(ndim))
        self.scale = 1.0
        if init == "identity":
            self.scale = 2.0
            for parameter in self.gates.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        strips = [strip_mean(x, axis) for axis in range(2, 2 + self.ndim)]
        # One norm over all strips: while training they share their statistics.
        hidden = self.act(self.norm(self.conv(torch.cat(strips, 2))))
        parts = torch.split(hidden, [x.size(axis) for axis in range(2, 2 + self.ndim)], 2)
        out = x
        for i, gate in enumerate(self.gates):
            out = out * along(torch.sigmoid(gate(parts[i])) * self.scale, x, i + 2)
        return out
