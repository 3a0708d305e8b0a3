"""The diagnostic variants of the ECA paper's Table 2 (https://arxiv.org/abs/1910.03151): w = sigma(W y), with W

SE-Var1  the identity           0 parameters
SE-Var2  diagonal               C
SE-Var3  full                   C * C
SE-GC    block-diagonal         C * C / G
ECA-NS   banded, not shared     k * C
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .eca import adaptive_kernel_size, checked_kernel_size
from .gating import ChannelGate, largest_divisor, whole_number


class SEVar1(ChannelGate):
    """SE-Var1: the pooled vector itself is the logit; no parameter. Args: channels, of the maps."""

    def __init__(self, channels: int, *, gate: str = "sigmoid") -> None:
        super().__init__(gate=gate)
        whole_number("channels", channels)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C)."""
        return pooled


class SEVar2(ChannelGate):
    """SE-Var2: one weight per channel, starting at 1 (as SE-Var1), or at 0 with init="identity"."""

    def __init__(self, channels: int, *, gate: str = "sigmoid", init: str = "paper") -> None:
        super().__init__(gate=gate, init=init)
        whole_number("channels", channels)
        self.weight = nn.Parameter(torch.zeros(channels) if init == "identity" else torch.ones(channels))

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): element by element."""
        return pooled * self.weight


class SEVar3(ChannelGate):
    """SE-Var3: one full layer C -> C, no bias."""

    def __init__(self, channels: int, *, gate: str = "sigmoid", init: str = "paper") -> None:
        super().__init__(gate=gate, init=init)
        whole_number("channels", channels)
        self.fc = nn.Linear(channels, channels, bias=False)
        if init == "identity":
            nn.init.zeros_(self.fc.weight)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C)."""
        squeezed: torch.Tensor = self.fc(pooled)
        return squeezed


class SEGC(ChannelGate):
    """SE-GC: G independent layers C/G -> C/G. Groups that do not divide C are fitted to the largest count that does."""

    def __init__(self, channels: int, groups: int = 16, *, gate: str = "sigmoid", init: str = "paper") -> None:
        super().__init__(gate=gate, init=init)
        self.groups = largest_divisor(whole_number("groups", groups), whole_number("channels", channels))
        fitted = f"with groups {groups} fitted to {self.groups}"
        self.adjustments: tuple[str, ...] = (fitted,) if self.groups != groups else ()
        self.fc = nn.Conv1d(channels, channels, 1, groups=self.groups, bias=False)
        if init == "identity":
            nn.init.zeros_(self.fc.weight)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): block by block."""
        made: torch.Tensor = self.fc(pooled.unsqueeze(2))
        return made.squeeze(2)


class ECANS(ChannelGate):
    """ECA-NS: every channel has its own k weights over its neighbours. k as in ECA."""

    def __init__(
        self,
        channels: int,
        k: int | None = None,
        *,
        gamma: float = 2,
        b: float = 1,
        gate: str = "sigmoid",
        init: str = "paper",
    ) -> None:
        super().__init__(gate=gate, init=init)
        self.k = adaptive_kernel_size(channels, gamma, b) if k is None else checked_kernel_size(k)
        self.weight = nn.Parameter(torch.zeros(channels, self.k))
        if init != "identity":
            # As torch starts a Conv1d(1, 1, k): uniform within 1/sqrt(k).
            nn.init.uniform_(self.weight, -(self.k**-0.5), self.k**-0.5)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): a band of width k, zero beyond the ends."""
        bands = F.pad(pooled, (self.k // 2, self.k // 2)).unfold(1, self.k, 1)
        return (bands * self.weight).sum(-1)
