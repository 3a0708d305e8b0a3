"""Efficient local attention: Xu, Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks",
https://arxiv.org/abs/2403.01123

    z_h = mean over the width, z_w = mean over the height
    y_h = sigma(GN(F_h(z_h))), y_w = sigma(GN(F_w(z_w))),  F a 1D convolution along the strip
    out = x * y_h * y_w

The equations give each direction a convolution of its own; the authors' code, which is the default, shares one
convolution and one norm between them: `shared=False` is the text. There are four sizes: T (kernel 5, as many groups as
channels, 32 groups in the norm), B (7, as many, 16), S (5, an eighth as many, 16) and L (7, an eighth as many, 16); the
default is B. The authors' code has B, S and L, without these names; those and T are from summaries of the paper. timm's
EfficientLocalAttn shares nothing, and has a SiLU before the sigmoid and a norm of one group.

Parameters: C k w + 2 C for each convolution with its norm, with w channels in a group; one of them, or if not shared
one for each spatial axis.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import largest_divisor, whole_number
from .layers import Groups, along, convolution, odd, strip_mean

fx.wrap("along")
fx.wrap("strip_mean")


class ELA(nn.Module):
    """Efficient local attention.

    Any channel count works: groups that do not divide it become the largest count that does, and `adjustments` says so.

    Args:
        channels: C of the maps. kernel: of the 1D convolutions, odd.
        group_width: channels in a group of the convolutions: 1, or 8 for the paper's S and L.
        norm_groups: groups of the group norm.
        shared: one convolution and norm for all directions, instead of one for each.
        ndim: number of spatial axes, 1 to 3.
        init: "identity" zeroes the norms' weights and doubles the gates, so that each starts at exactly 1.

    Raises:
        AttentionError: an even kernel, widths or groups below 1, or another number of axes.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        kernel: int = 7,
        *,
        group_width: int = 1,
        norm_groups: int = 16,
        shared: bool = True,
        ndim: int = 2,
        init: str = "paper",
    ) -> None:
        super().__init__()
        convolution(ndim)
        whole_number("channels", channels)
        odd("kernel", kernel)
        wanted = max(channels // whole_number("group_width", group_width), 1)
        groups = largest_divisor(wanted, channels)
        parts = largest_divisor(whole_number("norm_groups", norm_groups), channels)
        said = {
            f"with groups of {group_width} channels fitted to {channels // groups}": channels != groups * group_width,
            f"with norm_groups {norm_groups} fitted to {parts}": parts != norm_groups,
        }
        self.adjustments: tuple[str, ...] = tuple(what for what, is_so in said.items() if is_so)
        self.shared = shared
        self.ndim = ndim
        count = 1 if shared else ndim
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False) for _ in range(count)
        )
        self.norms = nn.ModuleList(Groups(parts, channels) for _ in range(count))
        self.scale = 1.0
        if init == "identity":
            self.scale = 2.0
            for norm in self.norms:
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        out = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):  # noqa: B905  # for torch.jit
            axes = [axis for axis in range(2, 2 + self.ndim)] if self.shared else [i + 2]  # noqa: C416  # for torch.jit
            for axis in axes:
                out = out * along(torch.sigmoid(norm(conv(strip_mean(x, axis)))) * self.scale, x, axis)
        return out
