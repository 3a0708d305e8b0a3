"""Efficient Channel Attention: Wang, Wu, Zhu, Li, Zuo, Hu, "ECA-Net", https://arxiv.org/abs/1910.03151

w = sigma(conv1d_k(y)) across the channel axis, one kernel of k weights shared by all channels      (equation 9)
k = |log2(C) / gamma + b / gamma| made odd, gamma = 2, b = 1                                       (equation 12)
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..errors import AttentionError
from .gating import ChannelGate, whole_number


def adaptive_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """k for C channels, as the authors' code rounds it: down, then up to the next odd number (C = 128 gives 5)."""
    whole_number("channels", channels)
    if not gamma:
        raise AttentionError("gamma must not be 0")
    wanted = abs((math.log2(channels) + b) / gamma)
    if wanted > 2 * channels + 1:
        raise AttentionError(f"gamma {gamma} and b {b} ask for a kernel of {wanted:.3g} over {channels} channels")
    t = int(wanted)
    return t if t % 2 else t + 1


def checked_kernel_size(k: int) -> int:
    """k itself.

    Raises:
        AttentionError: k is not odd and positive; an even one would change the number of channels.

    """
    if whole_number("k", k) % 2 == 0:
        raise AttentionError(f"k must be odd, got {k}: {k - 1} or {k + 1}")
    return k


class ECA(ChannelGate):
    """Efficient Channel Attention.

    Args:
        channels: C of the maps; only the adaptive k depends on it.
        k: the kernel size, odd; adaptive if None.
        gamma, b: of the adaptive k.
        gate: "sigmoid" or "hardsigmoid".
        gain: multiplies the gate (timm's norm-free networks: 2); 1 if None, and 2 with init="identity".
        init: "identity" zeroes the kernel and doubles the gate, so that it starts at exactly 1.

    Raises:
        AttentionError: an even or non-positive k.

    """

    def __init__(
        self,
        channels: int,
        k: int | None = None,
        *,
        gamma: float = 2,
        b: float = 1,
        gate: str = "sigmoid",
        gain: float | None = None,
        init: str = "paper",
    ) -> None:
        super().__init__(gate=gate, init=init, gain=gain)
        self.k = adaptive_kernel_size(channels, gamma, b) if k is None else checked_kernel_size(k)
        self.conv = nn.Conv1d(1, 1, self.k, padding=self.k // 2, bias=False)
        if init == "identity":
            nn.init.zeros_(self.conv.weight)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the same k weights slide over the channels."""
        slid: torch.Tensor = self.conv(pooled.unsqueeze(1))
        return slid.squeeze(1)
