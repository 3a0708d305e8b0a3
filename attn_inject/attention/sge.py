"""Spatial Group-wise Enhance: Li, Hu, Yang, https://arxiv.org/abs/1905.09646

    g    = mean of the group's x over space
    c_i  = g . x_i                                at every position i
    c^_i = (c_i - mean over space) / (deviation over space + eps)
    out  = x sigma(gamma c^ + beta)               one gamma and beta per group

The deviation of the released code, followed here, divides by one less than the number of positions; gamma starts at 0
and beta at 1 there. form="text" divides by that number, as a mean does.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import above_zero, choice, largest_divisor, whole_number
from .layers import at_least_float32
from .statistics import deviation, positions, shaped_like

for name in ("deviation", "positions", "shaped_like", "at_least_float32"):
    fx.wrap(name)


class SGE(nn.Module):
    """Spatial group-wise enhance; 2 G parameters.

    Groups that do not divide the channels are fitted to the largest count that does, and `adjustments` says so.

    Args:
        channels: C of the maps.
        groups: G.
        eps: beside the deviation.
        form: "code", or "text": the deviation that divides by the number of positions.

    Raises:
        AttentionError: a group count below 1.

    """

    traced_whole = True

    def __init__(self, channels: int, groups: int = 64, *, eps: float = 1e-5, form: str = "code") -> None:
        super().__init__()
        self.groups = largest_divisor(whole_number("groups", groups), whole_number("channels", channels))
        fitted = f"with groups {groups} fitted to {self.groups}"
        self.adjustments: tuple[str, ...] = (fitted,) if self.groups != groups else ()
        self.eps = above_zero("eps", eps)
        self.unbiased: bool = choice({"code": True, "text": False}, "form", form)
        self.weight = nn.Parameter(torch.zeros(self.groups, 1))
        self.bias = nn.Parameter(torch.ones(self.groups, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        flat = positions(x)
        grouped = flat.reshape(flat.shape[0], self.groups, flat.shape[1] // self.groups, flat.shape[2])
        wide = at_least_float32(grouped)
        likeness = (wide * wide.mean(3, keepdim=True)).sum(2)
        centred = likeness - likeness.mean(2, keepdim=True)
        # Its variance is that of the likeness, and the smallest number keeps the root's gradient finite.
        normal = centred / (deviation(centred, 1e-30, self.unbiased) + self.eps)
        weights = torch.sigmoid(normal * self.weight + self.bias).to(x.dtype)
        return shaped_like((grouped * weights.unsqueeze(2)).flatten(1, 2), x)
