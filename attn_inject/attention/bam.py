"""Bottleneck Attention Module: Park, Woo, Lee, Kweon, "BAM", https://arxiv.org/abs/1807.06514

    F' = F + F * M(F),  M(F) = sigma(M_c(F) + M_s(F))                      (equations 1 and 2)
    M_c(F): avg over space -> C/r -> C                                     (equation 3)
    M_s(F): 1x1 to C/r -> two 3x3 with dilation d -> 1x1 to one channel    (equation 4)

with r = 16, d = 4. Text and authors' code differ in three things; the code is the default, `form="text"` the equations
as they stand:

                     code                                           text
    M(F)             sigma(M_c * M_s)                               sigma(M_c + M_s)
    batch norms      after every layer but the last of each branch  one at the end of each branch
    ReLU             after those batch norms                        none

Parameters, with h = C/r, n spatial axes, biases everywhere: M_c 2 C h + h + C, M_s C h + h + 2 (3^n h^2 + h) + h + 1,
batch norms 8 h (code) or 2 C + 2 (text).

There is no gate that could start at one, since F itself is added: with init="identity" the module is mixed in by a
scalar that starts at zero.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import choice, for_each_position, spatial_mean, whole_number
from .layers import Norm, convolution
from .se import fitted_width

fx.wrap("for_each_position")
fx.wrap("spatial_mean")


class BAM(nn.Module):
    """Bottleneck Attention Module.

    Args:
        channels: C of the maps. reduction: r; the hidden width is C/r, at least 1, as in SE.
        dilation: d of the two spatial convolutions.
        form: "code" or "text", as above. ndim: number of spatial axes, 1 to 3.

    Raises:
        AttentionError: a reduction or dilation below 1, another form or number of axes.

    """

    traced_whole = True

    def __init__(
        self, channels: int, reduction: float = 16, *, dilation: int = 4, form: str = "code", ndim: int = 2
    ) -> None:
        super().__init__()
        hidden, self.adjustments, self.unmet = fitted_width(channels, reduction)
        whole_number("dilation", dilation)
        self.multiplied: bool = choice({"code": True, "text": False}, "form", form)
        conv, wide = convolution(ndim), {"padding": dilation, "dilation": dilation}
        if self.multiplied:
            self.channel = nn.Sequential(
                nn.Linear(channels, hidden), Norm(hidden), nn.ReLU(), nn.Linear(hidden, channels)
            )
            self.spatial = nn.Sequential(
                *(conv(channels, hidden, 1), Norm(hidden), nn.ReLU()),
                *(conv(hidden, hidden, 3, **wide), Norm(hidden), nn.ReLU()),
                *(conv(hidden, hidden, 3, **wide), Norm(hidden), nn.ReLU()),
                conv(hidden, 1, 1),
            )
        else:
            self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.Linear(hidden, channels), Norm(channels))
            self.spatial = nn.Sequential(
                conv(channels, hidden, 1),
                conv(hidden, hidden, 3, **wide),
                conv(hidden, hidden, 3, **wide),
                conv(hidden, 1, 1),
                Norm(1),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        channel = for_each_position(self.channel(spatial_mean(x)), x)
        spatial = self.spatial(x)
        logits = channel * spatial if self.multiplied else channel + spatial
        return x * (1 + torch.sigmoid(logits)).to(x.dtype)
