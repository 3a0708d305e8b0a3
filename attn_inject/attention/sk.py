"""Selective kernels: Li, Wang, Hu, Yang, "Selective Kernel Networks", https://arxiv.org/abs/1903.06586

    U_i = ReLU(BN(conv_i(x))),  3x3 with dilation i and G groups; a 5x5 is one with dilation 2
    U = sum of U_i,  s = avg U                            (equations 1 and 2)
    z = ReLU(BN(W s)), W: C -> d,  d = max(C/r, L)        (equations 3 and 4)
    V = sum of a_i * U_i,  a = softmax over i of A_i z    (equations 6 and 5)

SK[M, G, r] = SK[2, 32, 16], L = 32; the layers have no biases, as in the authors' networks.

In SKNet it *replaces* the 3x3 convolution of every bottleneck (placement `replace`); a norm and an activation that
follow that convolution stay, where SKNet has none.

timm's SelectiveKernel gives each branch a part of the channels unless `split_input=False`, does not group, and rounds
d, which has no least width there.

Parameters for C -> D, with g groups and n spatial axes: M (D (C/g) 3^n + 2 D) + D d + 2 d + M d D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from .gating import BranchWeights, for_each_position, largest_divisor, whole_number
from .layers import Norm, convolution, per_axis
from .se import hidden_width

fx.wrap("for_each_position")


class SK(nn.Module):
    """Selective kernels, before an add (shape kept) or in the place of a convolution.

    Any channel count works: groups that do not divide it become the largest count that does, and `adjustments` says so.

    Args:
        channels: C of the input. out_channels: of the output, C if None.
        branches: M, of which number i has dilation i. groups: G.
        stride: shared by the branches, one number or one for each axis.
        reduction: r. min_width: L, the least d.
        ndim: number of spatial axes, 1 to 3.

    Raises:
        AttentionError: counts below 1, or another number of axes.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        branches: int = 2,
        groups: int = 32,
        stride: int | Sequence[int] = 1,
        reduction: float = 16,
        min_width: int = 32,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        whole_number("channels", channels)
        width = channels if out_channels is None else whole_number("out_channels", out_channels)
        conv, steps = convolution(ndim), tuple(per_axis("stride", stride, ndim))
        fitted = largest_divisor(whole_number("groups", groups), channels, width)
        said = f"with groups {groups} fitted to {fitted}"
        self.adjustments: tuple[str, ...] = (said,) if fitted != groups else ()
        whole_number("branches", branches)
        hidden = hidden_width(width, reduction, min_width=min_width)
        self.paths = nn.ModuleList(
            nn.Sequential(
                conv(channels, width, 3, stride=steps, padding=i, dilation=i, groups=fitted, bias=False),
                Norm(width),
                nn.ReLU(),
            )
            for i in range(1, branches + 1)
        )
        self.reduce = nn.Linear(width, hidden, bias=False)
        self.norm = Norm(hidden)
        self.select = nn.Linear(hidden, branches * width, bias=False)
        self.shares = BranchWeights(branches, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, out_channels, *spatial / stride)."""
        paths = torch.stack([path(x) for path in self.paths], 1)
        # The mean of a sum is the sum of the means, which are small.
        pooled = paths.flatten(3).mean(3)
        hidden = torch.relu(self.norm(self.reduce(pooled.sum(1))))
        weights = self.shares(self.select(hidden).view_as(pooled))
        return (paths * for_each_position(weights, paths)).sum(1)
