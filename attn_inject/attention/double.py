"""Double Attention: Chen, Kalantidis, Li, Yan, Feng, "A2-Nets: Double Attention Networks",
https://arxiv.org/abs/1810.11579

    A = Wa x, of m channels;  B = softmax over positions of (Wb x), V = softmax over its n channels of (Wv x)
    G = A B^T                  (m x n)    features gathered from all positions    (equation 2, there without softmax)
    Z = G V                    (m, S)     and distributed to each
    out = x + Wo Z                        the double attention block, a residual branch

m = n = C/4 by default. No code of the authors' was found to hold it against.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import whole_number
from .layers import at_least_float32
from .se import hidden_width
from .statistics import positions, shaped_like

for name in ("positions", "shaped_like", "at_least_float32"):
    fx.wrap(name)


class DoubleAttention(nn.Module):
    """The double attention block; (m + 2 n) (C + 1) + C (m + 1) parameters.

    Widths are at least 1 for m and 2 for n, since a softmax over one number is constant; `adjustments` says so.

    Args:
        channels: C of the maps.
        reduction: m = n = C / reduction.
        gathered: m. distributed: n. Instead of that.
        init: "identity" zeroes Wo; everything else gets its gradient from the second step on.

    Raises:
        AttentionError: a reduction or width below 1.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        reduction: float = 4,
        *,
        gathered: int | None = None,
        distributed: int | None = None,
        init: str = "paper",
    ) -> None:
        super().__init__()
        whole_number("channels", channels)
        width = hidden_width(channels, reduction)
        m = width if gathered is None else whole_number("gathered", gathered)
        n = max(width, 2) if distributed is None else whole_number("distributed", distributed)
        narrow = f"with fewer than 2 channels left by the reduction {reduction}: {m} and {n}"
        fitted = channels // reduction < 2 and (gathered is None or distributed is None)
        self.adjustments: tuple[str, ...] = (narrow,) if fitted else ()
        self.features = nn.Conv1d(channels, m, 1)
        self.gather = nn.Conv1d(channels, n, 1)
        self.distribute = nn.Conv1d(channels, n, 1)
        self.out = nn.Conv1d(m, channels, 1)
        if init == "identity":
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        flat = positions(x)
        gather = torch.softmax(at_least_float32(self.gather(flat)), dim=2).to(x.dtype)
        distribute = torch.softmax(at_least_float32(self.distribute(flat)), dim=1).to(x.dtype)
        gathered = self.features(flat).to(x.dtype) @ gather.transpose(1, 2)
        return x + shaped_like(self.out(gathered @ distribute), x).to(x.dtype)
