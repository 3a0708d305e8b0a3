"""Squeeze-and-Excitation: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks",
https://arxiv.org/abs/1709.01507

    w = sigma(W2 delta(W1 y)),    W1: C -> C/r,    W2: C/r -> C              (equation 3)

with r = 16, delta = ReLU and no bias in the two layers (the paper's ablation; the released prototxt has bias).
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import AttentionError
from .gating import ACTIVATIONS, ChannelGate, choice, whole_number


def hidden_width(channels: int, reduction: float, divisor: int = 1, min_width: int | None = None) -> int:
    """C/r, rounded down, or to the nearest multiple of `divisor` (at least one of them), and at least `min_width` or 1.

    Raises:
        AttentionError: a reduction below 1, a divisor or a least width that is no whole number from 1.

    """
    whole_number("divisor", divisor)
    if isinstance(reduction, bool) or not isinstance(reduction, (int, float)) or not reduction >= 1:
        raise AttentionError(f"reduction must be a number from 1, got {reduction!r}")
    width = int(channels // reduction)
    if divisor > 1:
        width = max(divisor, int(channels / reduction + divisor / 2) // divisor * divisor)
    return max(width, 1 if min_width is None else whole_number("min_width", min_width))


def fitted_width(channels: int, reduction: float) -> tuple[int, tuple[str, ...], str]:
    """(C/r or 1, what was fitted, how what was asked for could be met), the last two empty where C is not below r.

    Raises:
        AttentionError: a reduction below 1, a channel count that is no whole number from 1.

    """
    hidden = hidden_width(whole_number("channels", channels), reduction)
    if channels >= reduction:
        return hidden, (), ""
    return (
        hidden,
        (f"narrower than the reduction {reduction}: hidden width 1",),
        f"reduction {reduction} is wider than the {channels} channels: use at most {channels}",
    )


class SE(ChannelGate):
    """Squeeze-and-Excitation.

    Any channel count works: where the reduction leaves nothing and nothing else sets a least width, the hidden width is
    1. `adjustments` says so, and `unmet` how it could be met: a plan none of whose sites meets it is refused.

    Args:
        channels: C of the maps.
        reduction: r; the hidden width is C/r.
        bias: whether the two layers have one.
        divisor: round the hidden width to a multiple of it (timm: 8). min_width: the least hidden width.
        rd_channels: the hidden width itself, instead of all that.
        gate: "sigmoid" or "hardsigmoid". act: the activation between the layers.
        gain: multiplies the gate (timm's norm-free networks: 2); 1 if None, and 2 with init="identity".
        form: "linear" keeps the weights as (out, in), "conv" as (out, in, 1, 1), for state dicts; the results are the
        same.
        init: "identity" zeroes the last layer and doubles the gate, so that it starts at exactly 1.

    Raises:
        AttentionError: widths or a reduction below 1, or unknown choices.

    """

    def __init__(
        self,
        channels: int,
        reduction: float = 16,
        *,
        bias: bool = False,
        divisor: int = 1,
        min_width: int | None = None,
        rd_channels: int | None = None,
        gate: str = "sigmoid",
        act: str = "relu",
        form: str = "linear",
        gain: float | None = None,
        init: str = "paper",
    ) -> None:
        super().__init__(gate=gate, init=init, gain=gain)
        whole_number("channels", channels)
        hidden = hidden_width(channels, reduction, divisor, min_width) if rd_channels is None else rd_channels
        whole_number("rd_channels", hidden)
        self.adjustments: tuple[str, ...] = ()
        self.unmet = ""
        if rd_channels is None and divisor == 1 and min_width is None and channels < reduction:
            _, self.adjustments, unmet = fitted_width(channels, reduction)
            self.unmet = f"{unmet}, or set min_width"
        self.act = choice(ACTIVATIONS, "act", act)
        self.form = form
        if choice({"linear": False, "conv": True}, "form", form):
            self.fc1: nn.Module = nn.Conv2d(channels, hidden, 1, bias=bias)
            self.fc2: nn.Module = nn.Conv2d(hidden, channels, 1, bias=bias)
        else:
            self.fc1 = nn.Linear(channels, hidden, bias=bias)
            self.fc2 = nn.Linear(hidden, channels, bias=bias)
        if init == "identity":
            for parameter in self.fc2.parameters():
                nn.init.zeros_(parameter)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C/r): W1 y."""
        # As a convolution over one position, so that results equal those of networks written that way to the bit.
        made: torch.Tensor = (
            self.fc1(pooled) if self.form == "linear" else self.fc1(pooled[:, :, None, None]).flatten(1)
        )
        return made

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C/r) -> (N, C): W2 delta(.)."""
        hidden = self.act(squeezed)
        made: torch.Tensor = (
            self.fc2(hidden) if self.form == "linear" else self.fc2(hidden[:, :, None, None]).flatten(1)
        )
        return made
