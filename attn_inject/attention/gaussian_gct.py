"""Gaussian Context Transformer: Ruan, Wang, Zheng, Zheng, Zheng, CVPR 2021,
https://openaccess.thecvf.com/content/CVPR2021/html/Ruan_Gaussian_Context_Transformer_CVPR_2021_paper.html

    y  = mean of x over space
    y^ = (y - mean over the channels) / (deviation over the channels + eps)
    out = x exp(-y^^2 / (2 c^2))

GCT-B0 fixes c = 2 and has no parameter. GCT-B1 learns it between two bounds: c = alpha sigma(theta) + beta, with theta
starting at 0. alpha = 3 and beta = 1 are what implementations of B1 in circulation have; they were not seen in the
paper itself. The authors released no code. Much of what circulates as B0 computes exp(-y^^2 c / 2), another function;
here it is the paper's.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import ChannelGate, above_zero, whole_number
from .layers import at_least_float32
from .statistics import deviation

fx.wrap("at_least_float32")
fx.wrap("deviation")


class GaussianGCT(ChannelGate):
    """Gaussian context transformer; no parameter (B0), or one (B1).

    The weights are at most 1 and have no setting at which all are, so that an identity start mixes it in. With one
    channel y^ is 0 and the weight is 1.

    Args:
        channels: C of the maps.
        c: the deviation of the Gaussian, where it is fixed.
        learn: B1, in which theta is the parameter, and c what it makes of alpha and beta.
        alpha, beta: c is learned between beta and alpha + beta.
        eps: beside the deviation.

    Raises:
        AttentionError: c, alpha or beta is no number above 0.

    """

    def __init__(
        self,
        channels: int,
        c: float = 2.0,
        *,
        learn: bool = False,
        alpha: float = 3.0,
        beta: float = 1.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        whole_number("channels", channels)
        # No sigmoid: rewrites that work one out themselves leave it alone.
        self.gate_name = "exp"
        self.c, self.alpha, self.beta = above_zero("c", c), above_zero("alpha", alpha), above_zero("beta", beta)
        self.eps = above_zero("eps", eps)
        self.theta = nn.Parameter(torch.zeros(())) if learn else None

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the pooled vector as it is; what follows is not affine."""
        return pooled

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): -y^^2 / (2 c^2)."""
        wide = at_least_float32(squeezed)
        centred = wide - wide.mean(1, keepdim=True)
        # The smallest number keeps the root's gradient finite.
        normal = centred / (deviation(centred.unsqueeze(1), 1e-30, False).squeeze(1) + self.eps)  # noqa: FBT003
        if self.theta is None:
            return -normal.square() / (2 * self.c * self.c)
        c = self.alpha * torch.sigmoid(self.theta) + self.beta
        return -normal.square() / (2 * c * c)

    def open(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): exp."""
        return torch.exp(logits)
