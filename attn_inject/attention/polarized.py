"""Polarized self-attention: Liu, Liu, Fan, Huang, "Polarized Self-Attention: Towards High-quality Pixel-wise
Regression", https://arxiv.org/abs/2107.00782

Its authors call it PSA too; here `psa` is Pyramid Squeeze Attention. The PSA of ultralytics' YOLO is neither: a
multi-head self-attention over positions.

    A_ch(X) = sigma(W_z(W_v X . softmax over positions of W_q X)),  W_v: C -> C/2, W_q: C -> 1, W_z: C/2 -> C
    A_sp(X) = sigma((avg W_q' X) . W_v' X),                         W_q', W_v': C -> C/2

    parallel:    X * A_ch(X) + X * A_sp(X)
    sequential:  Z * A_sp(Z), with Z = X * A_ch(X)

Text and authors' code differ, and the code's two layouts differ from one another; the code is the default,
`form="text"` the text:

                      code, parallel         code, sequential                                text
    W_z               one layer              C/2 -> C/8, LayerNorm, ReLU, -> C, with biases  one layer and a LayerNorm
    softmax in A_sp   of the product, over   of W_v' X, over positions                       of avg W_q' X, over
                      positions                                                              channels

Parameters with h = C/2: 4 C h + C (parallel), 3 C h + C + h m + 3 m + m C + C with m = C/8 (sequential), 4 C h + 3 C
(text).

With init="identity" the module is mixed in by a scalar that starts at zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from .gating import choice, for_each_position, whole_number
from .layers import at_least_float32, convolution

fx.wrap("at_least_float32")
fx.wrap("for_each_position")


class PolarizedSelfAttention(nn.Module):
    """Polarized self-attention, not the pyramid (`psa`).

    Any channel count works: half of one channel is one, an eighth of fewer than eight too, and `adjustments` says so.

    Args:
        channels: C of the maps. layout: "parallel" or "sequential". form: "code" or "text", as above.
        ndim: number of spatial axes, 1 to 3.

    Raises:
        AttentionError: an unknown layout or form, or another number of axes.

    """

    traced_whole = True

    def __init__(self, channels: int, layout: str = "parallel", *, form: str = "code", ndim: int = 2) -> None:
        super().__init__()
        convolution(ndim)
        whole_number("channels", channels)
        self.parallel: bool = choice({"parallel": True, "sequential": False}, "layout", layout)
        self.text: bool = choice({"code": False, "text": True}, "form", form)
        half, narrow = max(channels // 2, 1), max(channels // 8, 1)
        bottleneck = not self.parallel and not self.text
        said = {
            "with one channel: half of it is one": channels == 1,
            "narrower than 8: hidden width 1": bottleneck and channels < 8,
        }
        self.adjustments: tuple[str, ...] = tuple(what for what, is_so in said.items() if is_so)
        # As 1D convolutions over all positions: nothing here asks where a position is.
        self.channel_query = nn.Conv1d(channels, 1, 1, bias=False)
        self.channel_value = nn.Conv1d(channels, half, 1, bias=False)
        if bottleneck:
            self.up = nn.Sequential(
                nn.Linear(half, narrow), nn.LayerNorm(narrow), nn.ReLU(), nn.Linear(narrow, channels)
            )
        elif self.text:
            self.up = nn.Sequential(nn.Linear(half, channels, bias=False), nn.LayerNorm(channels))
        else:
            self.up = nn.Sequential(nn.Linear(half, channels, bias=False))
        self.spatial_query = nn.Conv1d(channels, half, 1, bias=False)
        self.spatial_value = nn.Conv1d(channels, half, 1, bias=False)
        for conv in (self.channel_query, self.channel_value, self.spatial_query, self.spatial_value):
            nn.init.kaiming_normal_(conv.weight, mode="fan_in")

    def by_channel(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, positions) -> (N, C, 1): A_ch."""
        query = F.softmax(self.channel_query(x), 2)
        context = torch.matmul(self.channel_value(x), query.transpose(1, 2)).squeeze(2)
        return for_each_position(torch.sigmoid(self.up(context)), x)

    def by_position(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, positions) -> (N, 1, positions): A_sp."""
        query = self.spatial_query(x).mean(2, keepdim=True)
        value = self.spatial_value(x)
        if self.text:
            query = F.softmax(query, 1)
        elif not self.parallel:
            value = F.softmax(value, 2)
        # A sum of products over C/2 channels: half precision overflows, and a softmax of infinities is no number.
        logits = (at_least_float32(query) * at_least_float32(value)).sum(1, keepdim=True)
        if self.parallel and not self.text:
            logits = F.softmax(logits, 2)
        return torch.sigmoid(logits).to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        flat = x.flatten(2)
        if self.parallel:
            out = flat * (self.by_channel(flat) + self.by_position(flat))
        else:
            once = flat * self.by_channel(flat)
            out = once * self.by_position(once)
        return out.reshape(x.shape)
