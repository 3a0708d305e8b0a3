"""SimAM: Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
ICML 2021, https://proceedings.mlr.press/v139/yang21o.html

    e* = 4 (v + lambda) / ((t - mu)^2 + 2 v + 2 lambda),  mu and v of a channel's map, lambda = 1e-4    (equation 5)
    out = x * sigma(1 / e*),  1 / e* = (t - mu)^2 / (4 (v + lambda)) + 1/2                              (equation 6)

v is a mean of squares, which divides by one less than the number of positions in the authors' code: that is the default
(`variance="sample"`); `variance="population"` divides by their number. A map of one position varies by nothing: v = 0.

No parameters. With init="identity" it is mixed in by a scalar that starts at zero.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import above_zero, choice, whole_number
from .layers import at_least_float32


@fx.wrap
def inverse_energy(x: torch.Tensor, e_lambda: float, spare: int) -> torch.Tensor:
    """(N, C, *spatial) -> the same shape: 1 / e*, in float32 or wider; v divides by the positions less `spare`."""
    flat = at_least_float32(x.flatten(2) if x.dim() > 2 else x.unsqueeze(2))
    squares = (flat - flat.mean(2, keepdim=True)).square()
    # As a tensor, since the size of a map may be unknown when a graph is exported.
    positions = torch.ones_like(flat[:1, :1]).sum(2, keepdim=True)
    variance = squares.sum(2, keepdim=True) / (positions - spare).clamp(min=1)
    return (squares / (4 * (variance + e_lambda)) + 0.5).reshape(x.shape)


class SimAM(nn.Module):
    """SimAM: each position weighed by how far it is from its channel's mean. Works on maps of any rank.

    Args:
        channels: C of the maps; nothing depends on it. e_lambda: what keeps the denominator above zero.
        variance: "sample", the code's, or "population".

    Raises:
        AttentionError: an e_lambda that is not above zero, or an unknown variance.

    """

    traced_whole = True

    def __init__(self, channels: int, e_lambda: float = 1e-4, *, variance: str = "sample") -> None:
        super().__init__()
        whole_number("channels", channels)
        self.e_lambda = above_zero("e_lambda", e_lambda)
        self.spare: int = choice({"sample": 1, "population": 0}, "variance", variance)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        return x * torch.sigmoid(inverse_energy(x, self.e_lambda, self.spare)).to(x.dtype)
