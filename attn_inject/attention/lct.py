"""Linear Context Transform: Ruan, Wen, Zheng, Zheng, "Linear Context Transform Block",
https://arxiv.org/abs/1909.03834

    y  = mean of x over space
    y^ = (y - mean of its group) / sqrt(variance of its group + eps)        G groups of channels
    out = x sigma(w y^ + b)                                                 one w and one b per channel

No code of the authors' was found, nor the paper's words on how many groups there are and where w and b start. Here w
starts at 0 and b at 1, so that all weights start at sigma(1), as in other people's networks that use it (with 16 and
with 32 groups); copies in collections of attentions start them at 1 and 0.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import ChannelGate, above_zero, largest_divisor, whole_number
from .layers import at_least_float32

fx.wrap("at_least_float32")


class LCT(ChannelGate):
    """Linear context transform; 2 C parameters.

    Groups that do not divide C are fitted to the largest count that does and leaves two channels to each, since the
    normalised value of a channel alone is always 0; `adjustments` says so.

    Args:
        channels: C of the maps. With one channel w has no effect.
        groups: G.
        eps: under the root.
        gate: "sigmoid" or "hardsigmoid".
        init: "identity" starts b at 0 and doubles the gate, which is then exactly 1.

    Raises:
        AttentionError: a group count below 1.

    """

    def __init__(
        self, channels: int, groups: int = 64, *, eps: float = 1e-5, gate: str = "sigmoid", init: str = "paper"
    ) -> None:
        super().__init__(gate=gate, init=init)
        most = min(whole_number("groups", groups), max(whole_number("channels", channels) // 2, 1))
        self.groups = largest_divisor(most, channels)
        fitted = f"with groups {groups} fitted to {self.groups}"
        self.adjustments: tuple[str, ...] = (fitted,) if self.groups != groups else ()
        self.eps = above_zero("eps", eps)
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels) if init == "identity" else torch.ones(channels))

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the pooled vector as it is; what follows is not affine."""
        return pooled

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): w y^ + b."""
        wide = at_least_float32(squeezed)
        grouped = wide.reshape(wide.shape[0], self.groups, wide.shape[1] // self.groups)
        centred = grouped - grouped.mean(2, keepdim=True)
        normal = centred / (centred.square().mean(2, keepdim=True) + self.eps).sqrt()
        return normal.flatten(1) * self.weight + self.bias
