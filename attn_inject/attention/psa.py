"""Pyramid Squeeze Attention: Zhang, Zu, Lu, Zou, Meng, "EPSANet", https://arxiv.org/abs/2105.14447

    F_i = conv_i(x), kernels 3, 5, 7, 9, groups 1, 4, 8, 16, C -> C/4 each           (equations 2 to 4)
    Z_i = SEWeight(F_i), one block shared by the branches                            (equation 5)
    Y_i = F_i * softmax over i of Z_i;  out = concatenation of the Y_i               (equations 8 to 10)

The released code concatenates the branches in reverse order, which is the default here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from ..errors import AttentionError
from .gating import BranchWeights, choice, for_each_position, largest_divisor, whole_number
from .layers import convolution, per_axis
from .se import SE

# Functions are kept whole by the name under which a module knows them.
fx.wrap("for_each_position")


class PSA(nn.Module):
    """Pyramid Squeeze Attention, before an add (shape kept) or in the place of a convolution.

    Any channel count works, and `adjustments` says what was fitted: groups that do not divide it become the largest
    count that does, a width that does not divide by the number of branches is rounded up and the result cut to size,
    and the shared block's hidden width is at least 1.

    Args:
        channels: C of the input. out_channels: of the output, C if None.
        kernels, groups: one each per branch; kernels odd.
        stride: shared by the branches, one number or one for each axis.
        reduction: r of the shared SE weight block on C/4.
        order: "reversed" (the released code) or "natural".
        ndim: number of spatial axes, 1 to 3.

    Raises:
        AttentionError: kernels and groups of different number, even kernels, a stride or group count below 1.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        kernels: Sequence[int] = (3, 5, 7, 9),
        groups: Sequence[int] = (1, 4, 8, 16),
        stride: int | Sequence[int] = 1,
        reduction: int = 16,
        order: str = "reversed",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        whole_number("channels", channels)
        self.out_channels = channels if out_channels is None else whole_number("out_channels", out_channels)
        if len(kernels) != len(groups) or not kernels:
            raise AttentionError(f"kernels and groups must be as many, got {tuple(kernels)} and {tuple(groups)}")
        if any(whole_number("kernels", kernel) % 2 == 0 for kernel in kernels):
            raise AttentionError(f"kernels must be odd, got {tuple(kernels)}")
        self.reverse = choice({"reversed": True, "natural": False}, "order", order)
        width = -(-self.out_channels // len(kernels))
        fitted = [largest_divisor(whole_number("groups", group), channels, width) for group in groups]
        whole_number("reduction", reduction)
        self.cut = self.out_channels % len(kernels) != 0
        said = {
            f"with groups {tuple(groups)} fitted to {tuple(fitted)}": fitted != list(groups),
            f"with widths that {len(kernels)} branches do not divide: rounded up, and cut": self.cut,
            f"with branches narrower than the reduction {reduction}: hidden width 1": width < reduction,
        }
        self.adjustments: tuple[str, ...] = tuple(what for what, is_so in said.items() if is_so)
        conv, steps = convolution(ndim), tuple(per_axis("stride", stride, ndim))
        self.convs = nn.ModuleList(
            conv(channels, width, kernel, stride=steps, padding=kernel // 2, groups=group, bias=False)
            for kernel, group in zip(kernels, fitted, strict=True)
        )
        self.weight = SE(width, reduction, bias=True, form="conv")
        self.shares = BranchWeights(len(kernels), width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, out_channels, *spatial / stride)."""
        branches = torch.stack([conv(x) for conv in self.convs], dim=1)
        pooled = branches.flatten(3).mean(3)
        weights = self.shares(self.weight.gate(pooled.flatten(0, 1)).view_as(pooled))
        weighted = branches * for_each_position(weights, branches)
        out = (weighted.flip(1) if self.reverse else weighted).flatten(1, 2)
        return out[:, : self.out_channels] if self.cut else out
