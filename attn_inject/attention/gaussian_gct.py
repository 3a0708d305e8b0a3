"""Gaussian Context Transformer: Ruan, Wang, Wen, Zheng, CVPR 2021,
https://openaccess.thecvf.com/content/CVPR2021/html/Ruan_Gaussian_Context_Transformer_CVPR_2021_paper.html

    y  = mean of x over space
    y^ = (y - mean over the channels) / sqrt(variance over the channels + eps)
    out = x exp(-y^^2 / (2 c^2))

GCT-B0 fixes c = 2 and has no parameter; GCT-B1 learns it. The authors released no code; implementations in circulation
compute exp(-y^^2 c / 2), another function. Here it is the paper's.
"""

from __future__ import annotations

import math

import torch
from torch import fx, nn

from ..errors import AttentionError
from .gating import ChannelGate, whole_number
from .layers import at_least_float32

fx.wrap("at_least_float32")


class GaussianGCT(ChannelGate):
    """Gaussian context transformer; no parameter (B0), or one (B1).

    The weights are at most 1 and have no setting at which all are, so that an identity start mixes it in. With one
    channel y^ is 0 and the weight is 1.

    Args:
        channels: C of the maps.
        c: the deviation of the Gaussian; where it starts, if it is learned.
        learn: B1, in which c itself is the parameter (only its square matters).
        eps: under the root.

    Raises:
        AttentionError: c is no number above 0.

    """

    def __init__(self, channels: int, c: float = 2.0, *, learn: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        whole_number("channels", channels)
        if isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 < c < math.inf:
            raise AttentionError(f"c must be a number above 0, got {c!r}")
        # No sigmoid: rewrites that work one out themselves leave it alone.
        self.gate_name = "exp"
        self.eps = eps
        self.c: nn.Parameter | float = nn.Parameter(torch.tensor(float(c))) if learn else float(c)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the pooled vector as it is; what follows is not affine."""
        return pooled

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): -y^^2 / (2 c^2)."""
        wide = at_least_float32(squeezed)
        centred = wide - wide.mean(1, keepdim=True)
        squares = centred.square()
        return -(squares / (squares.mean(1, keepdim=True) + self.eps)) / (2 * self.c * self.c)

    def open(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): exp."""
        return torch.exp(logits)
