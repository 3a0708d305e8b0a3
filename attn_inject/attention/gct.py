"""Gated Channel Transformation: Yang, Zhu, Wu, Yang, "Gated Channel Transformation for Visual Recognition",
https://arxiv.org/abs/1909.11519

    s_c  = alpha_c sqrt(sum of x_c^2 over space + eps)                  global context embedding
    s^_c = s_c / sqrt(mean of s^2 over the channels + eps)              channel normalization
    out  = x (1 + tanh(gamma s^ + beta))                                gating adaptation

Since 1 + tanh(z) = 2 sigma(2 z), it is a gate like the others, with z doubled. The paper's
normalization is sqrt(C) s / sqrt(sum of s^2 + eps), in which eps weighs C times less; the released code, followed here,
has the mean. Both start with gamma = beta = 0, that is at the identity.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import ChannelGate, above_zero, choice, whole_number
from .layers import at_least_float32
from .statistics import positions

fx.wrap("positions")
fx.wrap("at_least_float32")


class GCT(ChannelGate):
    """Gated Channel Transformation; 3 C parameters.

    It starts at exactly 1 with either init. alpha gets a gradient from the second step on, when gamma has moved.

    Args:
        channels: C of the maps.
        norm: "l2", or "l1": absolute values instead of squares, without roots (the paper's ablation, and its code).
        eps: keeps roots and quotients finite.
        form: "code", or "text": eps as the paper's normalization has it.

    Raises:
        AttentionError: an unknown norm or form.

    """

    pools_mean = False

    def __init__(
        self, channels: int, *, norm: str = "l2", eps: float = 1e-5, form: str = "code", init: str = "paper"
    ) -> None:
        super().__init__(init=init, gain=2.0)
        whole_number("channels", channels)
        self.squared = choice({"l2": True, "l1": False}, "norm", norm)
        self.eps = above_zero("eps", eps)
        self.eps_of_mean = eps / channels if choice({"code": False, "text": True}, "form", form) else eps
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C): the norm of every channel, in float32 at least."""
        flat = at_least_float32(positions(x))
        return (flat.square().sum(2) + self.eps).sqrt() if self.squared else flat.abs().sum(2)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): s."""
        return pooled * self.alpha

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): 2 (gamma s^ + beta)."""
        if self.squared:
            size = (squeezed.square().mean(1, keepdim=True) + self.eps_of_mean).sqrt()
        else:
            size = squeezed.abs().mean(1, keepdim=True) + self.eps_of_mean
        return 2 * (self.gamma * (squeezed / size) + self.beta)
