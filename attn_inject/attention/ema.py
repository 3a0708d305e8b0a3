"""Efficient multi-scale attention: Ouyang, He, Zhang, Luo, Guo, Zhan, Huang, "Efficient Multi-Scale Attention Module
with Cross-Spatial Learning", https://arxiv.org/abs/2305.13563

The channels are cut into G groups, and each of them goes the same three ways:

    a_h, a_w = sigma(conv_1x1([z^h, z^w])), z the means over the other axes, as in coordinate attention
    x_1 = GN(x * a_h * a_w),   x_2 = conv_3x3(x)
    out = x * sigma(softmax(avg x_1) . x_2 + softmax(avg x_2) . x_1)          softmax and product over the channels

G = 32 and a group norm of one channel per group, as in the authors' code. (Such a norm makes avg x_1 its own bias, so
that the first softmax does not depend on the map; that is so in the authors' code too.)

Trained under `torch.compile` at a second image size it ends in an error of torch 2.14's inductor, as the authors'
module does; with `dynamic=False` it does not.

Parameters, with c = C/G and n spatial axes: c c + c (1x1), 3^n c c + c (3x3), 2 c (norm).

With init="identity" the module is mixed in by a scalar that starts at zero: zeroed convolutions would keep all channels
of a group equal for ever.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from .gating import largest_divisor, whole_number
from .layers import Groups, along, convolution, grouped, strip_mean

fx.wrap("along")
fx.wrap("grouped")
fx.wrap("strip_mean")


class EMA(nn.Module):
    """Efficient multi-scale attention.

    Any channel count works: groups that do not divide it become the largest count that does, and `adjustments` says so.

    Args:
        channels: C of the maps. groups: G. ndim: number of spatial axes, 1 to 3.

    Raises:
        AttentionError: a group count below 1, or another number of axes.

    """

    traced_whole = True

    def __init__(self, channels: int, groups: int = 32, *, ndim: int = 2) -> None:
        super().__init__()
        conv = convolution(ndim)
        self.groups = largest_divisor(whole_number("groups", groups), whole_number("channels", channels))
        fitted = f"with groups {groups} fitted to {self.groups}"
        self.adjustments: tuple[str, ...] = (fitted,) if self.groups != groups else ()
        self.ndim = ndim
        width = channels // self.groups
        self.strip = nn.Conv1d(width, width, 1)
        self.local = conv(width, width, 3, padding=1)
        self.norm = Groups(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        group = grouped(x, self.groups)
        strips = [strip_mean(group, axis) for axis in range(2, 2 + self.ndim)]
        sizes = [group.size(axis) for axis in range(2, 2 + self.ndim)]
        parts = torch.split(self.strip(torch.cat(strips, 2)), sizes, 2)
        first = group
        for i in range(self.ndim):
            first = first * along(torch.sigmoid(parts[i]), group, i + 2)
        first = self.norm(first).flatten(2)
        second = self.local(group).flatten(2)
        by_first = F.softmax(first.mean(2, keepdim=True).transpose(1, 2), 2)
        by_second = F.softmax(second.mean(2, keepdim=True).transpose(1, 2), 2)
        # (N G, 1, positions): both are weighted means over the channels of a group.
        logits = torch.matmul(by_first, second) + torch.matmul(by_second, first)
        return (group.flatten(2) * torch.sigmoid(logits).to(x.dtype)).reshape(x.shape)
