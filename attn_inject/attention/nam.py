"""Normalization-based Attention Module: Liu, Shao, Teng, Hoffmann, "NAM", https://arxiv.org/abs/2111.12419

    B   = batch norm of x, with weights gamma
    out = x sigma(W B),  W_c = gamma_c / sum of gamma                   channel attention

Each position has a weight of its own, so that it is no channel gate in spite of its name: there is no pool. The
released code, followed here, takes absolute values of gamma and keeps gradients out of W.

The paper's spatial attention norms each position over the channels, with weights for a fixed number of
positions. The authors' networks leave it out, and so does this module, which takes maps of any size.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import choice, for_each_position, whole_number
from .layers import Norm, at_least_float32

fx.wrap("for_each_position")
fx.wrap("at_least_float32")


class NAM(nn.Module):
    """NAM's channel attention; 2 C parameters, those of the norm.

    A batch of one value per channel is normalised by the running statistics, in train mode too (`layers.Norm`).

    Args:
        channels: C of the maps.
        form: "code", or "text": W as written above, with the signs of gamma (a sum near 0 is yours to avoid), and with
        gradients through it.

    """

    traced_whole = True

    def __init__(self, channels: int, *, form: str = "code") -> None:
        super().__init__()
        self.signed: bool = choice({"code": False, "text": True}, "form", form)
        self.norm = Norm(whole_number("channels", channels))

    def shares(self) -> torch.Tensor:
        """(1, C): W, the share of each channel in the sum."""
        gamma = at_least_float32(self.norm.weight)
        if self.signed:
            return (gamma / gamma.sum()).unsqueeze(0)
        sizes = gamma.detach().abs()
        # Weights that a penalty has driven to zero, all of them, share nothing.
        return (sizes / sizes.sum().clamp(min=1e-30)).unsqueeze(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        normal = self.norm(x)
        gated: torch.Tensor = x * torch.sigmoid(normal * for_each_position(self.shares(), normal))
        return gated
