"""Large separable kernel attention: Lau, Po, Rehman, "Large Separable Kernel Attention: Rethinking the Large Kernel
Attention Design in CNN", https://arxiv.org/abs/2309.01439

    Z^C = DW_(2d-1) * F,   by one depthwise kernel along each axis, without dilation
    Z   = DW_(k/d) * Z^C,  by one depthwise kernel along each axis, with dilation d
    A   = W_1x1 * Z
    out = F * A

There is no sigmoid: A is any number. The width comes first, as in the authors' code, whose layers have biases;
form="text" has none, as written above. The code's kernels k are 7, 11 (with d = 2), 23, 35, 41 and 53 (with d = 3); its
published weights, and the default, have 23. In VAN it stands between two 1x1 convolutions and a GELU; here it is the
attention alone.

Parameters, with n spatial axes: n C (2d - 1 + floor(k/d) + 2) + C C + C, of which n 2 C + C are biases.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import AttentionError
from .gating import choice, whole_number
from .layers import convolution


class LSKA(nn.Module):
    """Large separable kernel attention.

    Args:
        channels: C of the maps. kernel: k. dilation: d; if None 2 for kernels below 23 and 3 from there, the authors'.
        ndim: number of spatial axes, 1 to 3.
        form: "code", or "text": without biases.
        init: "identity" zeroes the last layer's weight and sets its bias to 1, so that A starts at exactly 1.

    Raises:
        AttentionError: floor(k/d) is not odd, so that a map would change its size, another number of axes, or an
        identity start of the text's form, where A is 0 for a map of zeros.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        kernel: int = 23,
        *,
        dilation: int | None = None,
        ndim: int = 2,
        form: str = "code",
        init: str = "paper",
    ) -> None:
        super().__init__()
        biases: bool = choice({"code": True, "text": False}, "form", form)
        if init == "identity" and not biases:
            raise AttentionError("init='identity' starts from the biases, which form='text' does not have")
        conv = convolution(ndim)
        whole_number("channels", channels)
        step = (2 if whole_number("kernel", kernel) < 23 else 3) if dilation is None else dilation
        far = kernel // whole_number("dilation", step)
        if far % 2 == 0:
            raise AttentionError(f"kernel {kernel} over dilation {step} must be odd when rounded down, and is {far}")
        self.adjustments: tuple[str, ...] = ()
        layers = []
        for extent, spacing in ((2 * step - 1, 1), (far, step)):
            for axis in reversed(range(ndim)):
                sizes, padding = [1] * ndim, [0] * ndim
                sizes[axis], padding[axis] = extent, extent // 2 * spacing
                depthwise = {"padding": tuple(padding), "dilation": spacing, "groups": channels}
                layers.append(conv(channels, channels, tuple(sizes), bias=biases, **depthwise))
        self.convs = nn.Sequential(*layers)
        self.mix = conv(channels, channels, 1, bias=biases)
        if init == "identity":
            nn.init.zeros_(self.mix.weight)
            nn.init.ones_(self.mix.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        weights: torch.Tensor = self.mix(self.convs(x))
        return x * weights.to(x.dtype)
