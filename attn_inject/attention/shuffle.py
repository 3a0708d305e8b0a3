"""Shuffle attention: Zhang, Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
https://arxiv.org/abs/2102.00240

The channels are cut into G groups, each into two halves x_1 and x_2:

    x_1' = x_1 * sigma(w_1 avg(x_1) + b_1)            one weight and bias per channel      (equations 1 and 2)
    x_2' = x_2 * sigma(w_2 GN(x_2) + b_2)             a norm of each channel's map         (equation 3)

and [x_1', x_2'] of all groups are shuffled as by ShuffleNet with two groups. Weights and biases are shared by the
groups; G = 64; w starts at 0 and b at 1, as in the authors' code.

Parameters: 6 c with c = C/(2G), that is 3 C/G.

The shuffle reorders channels even where all gates are open: with init="identity" the module is mixed in by a scalar
that starts at zero. (The norm learns from the third step on, when w_2 has moved too.)
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import for_each_position, largest_divisor, spatial_mean, whole_number
from .layers import Groups, convolution, grouped

fx.wrap("for_each_position")
fx.wrap("grouped")
fx.wrap("spatial_mean")


@fx.wrap
def with_a_channel_more(x: torch.Tensor) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C + 1, *spatial): the last one is zero."""
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


@fx.wrap
def shuffled(x: torch.Tensor, groups: int, channels: int) -> torch.Tensor:
    """(N * groups, 2 c, *spatial) -> (N, channels, *spatial): the second half of all channels between the first."""
    halves = [x.size(0) // groups, 2, x.size(1) * groups // 2] + list(x.shape[2:])  # noqa: RUF005  # for torch.jit
    return x.reshape(halves).transpose(1, 2).flatten(1, 2)[:, :channels]


class ShuffleAttention(nn.Module):
    """Shuffle attention.

    Any channel count works, and `adjustments` says what was fitted: groups that do not divide half the channels become
    the largest count that does; an odd number of channels gets one of zeros more, which the shuffle leaves last, and
    which is cut off again.

    Args:
        channels: C of the maps. groups: G. ndim: number of spatial axes, 1 to 3.

    Raises:
        AttentionError: a group count below 1, or another number of axes.

    """

    traced_whole = True

    def __init__(self, channels: int, groups: int = 64, *, ndim: int = 2) -> None:
        super().__init__()
        convolution(ndim)
        self.channels = whole_number("channels", channels)
        self.cut = channels % 2 == 1
        half = (channels + 1) // 2
        self.groups = largest_divisor(whole_number("groups", groups), half)
        said = {
            f"with groups {groups} fitted to {self.groups}": self.groups != groups,
            "with an odd number of channels: one of zeros added, and cut": self.cut,
        }
        self.adjustments: tuple[str, ...] = tuple(what for what, is_so in said.items() if is_so)
        width = half // self.groups
        self.channel_weight = nn.Parameter(torch.zeros(width))
        self.channel_bias = nn.Parameter(torch.ones(width))
        self.spatial_weight = nn.Parameter(torch.zeros(width))
        self.spatial_bias = nn.Parameter(torch.ones(width))
        self.norm = Groups(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        parts = grouped(with_a_channel_more(x) if self.cut else x, self.groups)
        first, second = torch.chunk(parts, 2, 1)
        channel = torch.sigmoid(spatial_mean(first) * self.channel_weight + self.channel_bias)
        weight = for_each_position(self.spatial_weight.unsqueeze(0), second)
        bias = for_each_position(self.spatial_bias.unsqueeze(0), second)
        spatial = torch.sigmoid(self.norm(second) * weight + bias).to(x.dtype)
        joined = torch.cat([first * for_each_position(channel, first), second * spatial], 1)
        return shuffled(joined, self.groups, self.channels)
