"""Normalization-based Attention Module: Liu, Shao, Teng, Hoffmann, "NAM", https://arxiv.org/abs/2111.12419

    B   = batch norm of x, with weights gamma                                                       (equation 1)
    out = x sigma(W B),  W_c = gamma_c / sum of gamma                   channel attention           (its gate: 2)

    B'  = batch norm of the positions of x, each over all images and channels, with weights lambda
    out = x sigma(W' B'),  W'_i = lambda_i / sum of lambda              spatial attention, behind it (its gate: 3)

Each position has a weight of its own, so that the first is no channel gate in spite of its name: there is no pool. The
released code, followed here, takes absolute values of gamma and keeps gradients out of W.

The spatial attention has weights for a fixed number of positions. The authors' networks leave it out, and so does this
module, which takes maps of any size, unless `size` says for how many positions it is. Maps of other sizes are averaged
to that size, and their gate is brought back to theirs in the same way; what the paper says of them is nothing.

Parameters: 2 C, those of the norm, and with `size` two for each of its positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import fx, nn

from .averaging import resized
from .gating import choice, for_each_position, whole_number
from .layers import Norm, at_least_float32, per_axis
from .statistics import positions, shaped_like

fx.wrap("for_each_position")
fx.wrap("at_least_float32")
fx.wrap("resized")
fx.wrap("positions")
fx.wrap("shaped_like")


def shares_of(weights: torch.Tensor, signed: bool) -> torch.Tensor:  # noqa: FBT001  # for torch.jit
    """(C,) -> (1, C): the share of each in the sum; without signs, and without gradients, unless `signed`."""
    wide = at_least_float32(weights)
    if signed:
        return (wide / wide.sum()).unsqueeze(0)
    magnitudes = wide.detach().abs()
    # Weights that a penalty has driven to zero, all of them, share nothing.
    return (magnitudes / magnitudes.sum().clamp(min=1e-30)).unsqueeze(0)


class PositionNAM(nn.Module):
    """NAM's spatial attention, with weights for the positions of maps of `size`, one extent for each axis."""

    def __init__(self, size: list[int], *, signed: bool) -> None:
        super().__init__()
        self.size = size
        self.signed = signed
        self.norm = Norm(math.prod(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        cells = resized(x, None, self.size)
        # Laid out anew: compilers expect a norm to give back what it lays out itself.
        normal = self.norm(positions(cells).transpose(1, 2).contiguous())
        weighed = normal * for_each_position(shares_of(self.norm.weight, self.signed), normal)
        gate = shaped_like(torch.sigmoid(weighed).transpose(1, 2), cells)
        return x * resized(gate, x, self.size).to(x.dtype)


class NAM(nn.Module):
    """NAM's channel attention, and with `size` its spatial attention behind it.

    A batch of one value per channel is normalised by the running statistics, in train mode too (`layers.Norm`).

    Args:
        channels: C of the maps.
        size: of the maps whose positions have weights of their own: a number for all axes or one for each.
        form: "code", or "text": W as written above, with the signs of gamma (a sum near 0 is yours to avoid), and with
        gradients through it.
        ndim: the number of spatial axes, 1 to 3.

    Raises:
        AttentionError: another number of sizes than of axes, or one below 1.

    """

    traced_whole = True

    def __init__(
        self, channels: int, *, size: int | Sequence[int] | None = None, form: str = "code", ndim: int = 2
    ) -> None:
        super().__init__()
        self.signed: bool = choice({"code": False, "text": True}, "form", form)
        self.norm = Norm(whole_number("channels", channels))
        self.spatial: nn.Module = nn.Identity()
        if size is not None:
            self.spatial = PositionNAM(per_axis("size", size, ndim), signed=self.signed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        normal = self.norm(x)
        gated = x * torch.sigmoid(normal * for_each_position(shares_of(self.norm.weight, self.signed), normal))
        out: torch.Tensor = self.spatial(gated)
        return out
