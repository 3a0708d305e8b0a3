"""Style-based Recalibration Module: Lee, Kim, Nam, "SRM: A Style-based Recalibration Module for Convolutional Neural
Networks", https://arxiv.org/abs/1903.10829

    t_c = (mean, standard deviation) of x_c over space        style pooling                     (equations 1 to 3)
    z_c = w_c . t_c                                           one pair of weights per channel   (equation 4)
    out = x sigma(batch norm of z)                            the rest of style integration     (equations 5 to 9)

The deviation of the released code, followed here, divides by one less than the number of positions, and has 1e-5 under
the root; w starts at zero there. form="text" divides by that number, as a mean does.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import ChannelGate, above_zero, choice, whole_number
from .layers import Norm, at_least_float32
from .statistics import deviation, positions

for name in ("deviation", "positions", "at_least_float32"):
    fx.wrap(name)


class SRM(ChannelGate):
    """Style-based recalibration; 4 C parameters, of which 2 C are the norm's.

    The norm sees one value per channel and image. A batch of one image is normalised by the running statistics, in
    train mode too (`layers.Norm`). A map of one position has deviation 0.

    Args:
        channels: C of the maps.
        eps: under the root of the deviation, whose gradient it keeps finite on constant maps.
        form: "code", or "text": the deviation that divides by the number of positions.
        gate: "sigmoid" or "hardsigmoid".
        init: "identity" doubles the gate, which starts at exactly 1; w has its gradient at once, and the norm's weight
        from the second step on.

    """

    pools_mean = False

    def __init__(
        self, channels: int, *, eps: float = 1e-5, form: str = "code", gate: str = "sigmoid", init: str = "paper"
    ) -> None:
        super().__init__(gate=gate, init=init)
        whole_number("channels", channels)
        self.eps = above_zero("eps", eps)
        self.unbiased: bool = choice({"code": True, "text": False}, "form", form)
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.norm = Norm(channels)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C, 2): mean and deviation."""
        flat = at_least_float32(positions(x))
        style = torch.cat([flat.mean(2, keepdim=True), deviation(flat, self.eps, self.unbiased)], dim=2)
        return style.to(x.dtype)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C, 2) -> (N, C): batch norm of z."""
        normed: torch.Tensor = self.norm((pooled * self.weight).sum(2))
        return normed
