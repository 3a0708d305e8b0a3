"""Global Context: Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
https://arxiv.org/abs/1904.11492

    context = sum over positions j of x_j softmax over j of (Wk x_j)            or the mean: pool="mean"
    out     = x + W2 relu(layer norm(W1 context)),   C -> C/r -> C              (equation 5)
    out     = x sigma(W2 relu(layer norm(W1 context)))                          fusion="scale", the paper's ablation

The last layer starts at zero, as in the released code: the added context is 0, and the scale one half.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import choice, for_each_position, whole_number
from .layers import at_least_float32
from .se import hidden_width
from .statistics import positions

fx.wrap("at_least_float32")
fx.wrap("for_each_position")
fx.wrap("positions")


class _Transform(nn.Module):
    """(N, C) -> (N, C): the bottleneck with its layer norm."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.fc2(torch.relu(self.norm(self.fc1(context))))
        return made


class GC(nn.Module):
    """Global context; 2 C h + 3 h + C parameters with h = C/r for each of add and scale, and C + 1 for the attention.

    The hidden width is at least 2, since the layer norm of one number is always 0; `adjustments` says so. As published
    it starts at the identity, but for scale. W1, its norm and Wk get their gradient from the second step on.

    Args:
        channels: C of the maps.
        reduction: r; the hidden width is C/r.
        pool: "attention" or "mean".
        fusion: "add", "scale", or "both": scaled first, then added to, both from the context of x.
        init: "identity" doubles the scale, which then starts at exactly 1.

    Raises:
        AttentionError: a reduction below 1, an unknown pool or fusion.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        reduction: float = 16,
        *,
        pool: str = "attention",
        fusion: str = "add",
        init: str = "paper",
    ) -> None:
        super().__init__()
        whole_number("channels", channels)
        hidden = max(hidden_width(channels, reduction), 2)
        narrow = f"with fewer than 2 channels left by the reduction {reduction}: hidden width 2"
        self.adjustments: tuple[str, ...] = (narrow,) if channels // reduction < 2 else ()
        attends = choice({"attention": True, "mean": False}, "pool", pool)
        adds, scales = choice({"add": (True, False), "scale": (False, True), "both": (True, True)}, "fusion", fusion)
        self.attention = nn.Conv1d(channels, 1, 1) if attends else None
        self.scale = _Transform(channels, hidden) if scales else None
        self.add = _Transform(channels, hidden) if adds else None
        self.gain = 2.0 if init == "identity" else 1.0

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C)."""
        flat = positions(x)
        if self.attention is None:
            return flat.mean(2)
        shares = torch.softmax(at_least_float32(self.attention(flat)), dim=2)
        return (flat @ shares.to(x.dtype).transpose(1, 2)).squeeze(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        context = self.context(x)
        if self.scale is not None:
            x = x * for_each_position(torch.sigmoid(self.scale(context)) * self.gain, x)
        if self.add is not None:
            x = x + for_each_position(self.add(context), x)
        return x
