"""Frequency Channel Attention: Qin, Zhang, Wu, Li, "FcaNet", https://arxiv.org/abs/2012.11879

    y_c = sum over i, j of x_c,ij B(u, H)_i B(v, W)_j        the 2-D DCT of frequency (u, v) instead of the mean
    B(u, L)_i = cos(pi u (i + 1/2) / L) sqrt((1 if u = 0 else 2) / L)
    out = x sigma(W2 relu(W1 y)),  C -> C/r -> C             as in Squeeze-and-Excitation, without bias

The channels are cut into as many parts as there are frequencies. Names of sets are those of the paper: "top16" are the
16 frequencies of the 7 x 7 grid that did best alone, "low" the lowest, "bot" the worst. On larger maps the frequencies
are multiplied by H // 7 and W // 7, as in the released code. The scale of B is the code's too; the paper's text has the
cosines alone, which form="text" gives.

The code fixes the size of the basis when the network is built (56, 28, 14, 7 by stage), and pools maps of other sizes
to it; `size` does that. By default the basis is that of each map, which is the same on images of 224 x 224.

The pool is linear, so `optimize` may take it at the input of a 1x1 convolution, for every frequency there. The merged
layer is then as large as the convolution, and pays where maps are larger than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import AttentionError
from .averaging import resized
from .gating import ChannelGate, choice, whole_number
from .layers import at_least_float32, per_axis
from .se import fitted_width

fx.wrap("resized")
fx.wrap("at_least_float32")

# (u, v) on the 7 x 7 grid, best first, from the paper's measurements and as its code lists them.
_SETS = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
}
_HIGHEST = 6
_COUNTS = (1, 2, 4, 8, 16, 32)


def frequencies_of(wanted: str | Sequence[Sequence[int]], ndim: int) -> list[list[int]]:
    """The frequencies of a set by name, or the given ones: one number for each spatial axis.

    Every set is that of the lowest frequencies for other than two axes, where nobody has measured which are best.

    Raises:
        AttentionError: an unknown set, or frequencies that are no whole numbers, one for each axis.

    """
    if isinstance(wanted, str):
        kind, count = wanted[:3], wanted[3:]
        if kind not in _SETS or count not in map(str, _COUNTS):
            raise AttentionError(
                f"frequencies must be top, low or bot and one of {', '.join(map(str, _COUNTS))} (top16), or a list of "
                f"tuples with one frequency for each axis; got {wanted!r}"
            )
        if ndim != 2:
            return [list(each) for each in sorted(product(range(7), repeat=ndim), key=sum)[: int(count)]]
        return [[int(digit) for digit in pair] for pair in _SETS[kind].split()[: int(count)]]
    given = [list(each) for each in wanted]
    if not given or any(len(each) != ndim for each in given):
        raise AttentionError(f"frequencies must be tuples of {ndim}, one number for each axis; got {wanted!r}")
    numbers = [[whole_number("frequencies", number, 0) for number in each] for each in given]
    if any(number > _HIGHEST for each in numbers for number in each):
        # Beyond the grid of 7 they are the lower ones again, or their negatives.
        raise AttentionError(f"frequencies go from 0 to {_HIGHEST}; got {wanted!r}")
    return numbers


def basis(frequency: torch.Tensor, extent: int, orthonormal: bool) -> torch.Tensor:  # noqa: FBT001  # for torch.jit
    """(C, extent): B(u, extent) for the u of each channel, which is on a grid of 7.

    Frequencies that an axis of fewer than 7 positions does not have become its highest.
    """
    # Tensors, so that exported programs take maps of any size.
    length = torch.full([1], extent, dtype=frequency.dtype, device=frequency.device)
    u = torch.minimum(frequency, length - 1) * (length / 7).floor().clamp(min=1)
    at = torch.arange(extent, dtype=frequency.dtype, device=frequency.device) + 0.5
    waves = torch.cos(math.pi / length * u.unsqueeze(1) * at)
    if not orthonormal:
        return waves
    return waves * ((1 + (u > 0).to(u.dtype)) / length).sqrt().unsqueeze(1)


@fx.wrap
def spectrum(x: torch.Tensor, frequencies: torch.Tensor, orthonormal: bool) -> torch.Tensor:  # noqa: FBT001
    """(N, C, *spatial), (axes, C) -> (N, C): the DCT of each channel at its own frequency."""
    sizes = x.shape[2:]
    images, channels = x.shape[0], x.shape[1]
    for axis in range(len(sizes) - 1, -1, -1):
        waves = basis(frequencies[axis].to(x.dtype), sizes[axis], orthonormal)
        # Not -1, which an empty batch leaves open.
        others = 1
        for other in range(axis):
            others = others * sizes[other]
        x = x.reshape(images, channels, others, sizes[axis])
        # A product of matrices reads the map once, but keeps the waves for its gradient once for every image.
        keeps = torch.is_grad_enabled() and x.requires_grad
        x = (x * waves.unsqueeze(1)).sum(3, keepdim=True) if keeps else x @ waves.unsqueeze(2)
    return x.flatten(1)


class FCA(ChannelGate):
    """Frequency channel attention; 2 C C/r parameters, as Squeeze-and-Excitation.

    Any channel count and rank work: where the reduction leaves nothing the hidden width is 1, and where the frequencies
    do not divide the channels their parts differ by one channel; `adjustments` says so.

    Args:
        channels: C of the maps.
        reduction: r; the hidden width is C/r.
        frequencies: a set by its name, or a list of tuples, one number from 0 to 6 for each axis. The names are of
        pairs: maps of 1 or 3 axes take as many of their lowest frequencies, which `adjustments` says too.
        size: pool maps of other sizes to this one first, and take the basis there, as the released code does: a number
        for all axes or one for each. The map's own size if None.
        form: "code", or "text": the cosines alone, without the factors that make them orthonormal.
        gate: "sigmoid" or "hardsigmoid".
        init: "identity" zeroes the last layer and doubles the gate, so that it starts at exactly 1.
        ndim: the number of spatial axes, 1 to 3.

    Raises:
        AttentionError: unknown frequencies, a size or reduction below 1.

    """

    pools_mean = False
    pools_linearly = True

    def __init__(
        self,
        channels: int,
        reduction: float = 16,
        *,
        frequencies: str | Sequence[Sequence[int]] = "top16",
        size: int | Sequence[int] | None = None,
        form: str = "code",
        gate: str = "sigmoid",
        init: str = "paper",
        ndim: int = 2,
    ) -> None:
        super().__init__(gate=gate, init=init)
        whole_number("channels", channels)
        chosen = frequencies_of(frequencies, ndim)
        # 0: as it comes. torch.jit takes no empty list.
        self.size = [0] * ndim if size is None else per_axis("size", size, ndim)
        self.orthonormal: bool = choice({"code": True, "text": False}, "form", form)
        hidden, self.adjustments, self.unmet = fitted_width(channels, reduction)
        if ndim != 2 and isinstance(frequencies, str) and not frequencies.startswith("low"):
            self.adjustments += (f"with {frequencies}, pairs for maps of 2 axes, fitted to the {len(chosen)} lowest",)
        if channels % len(chosen):
            self.adjustments += (f"with channels that {len(chosen)} frequencies do not divide: parts of unequal width",)
        each = [chosen[channel * len(chosen) // channels] for channel in range(channels)]
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", torch.tensor(each).T.contiguous(), persistent=False)
        taken = [list(frequency) for frequency in dict.fromkeys(map(tuple, each))]
        self.distinct: torch.Tensor
        self.register_buffer("distinct", torch.tensor(taken).T.contiguous(), persistent=False)
        self.number: torch.Tensor
        self.register_buffer("number", torch.tensor([taken.index(own) for own in each]), persistent=False)
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)
        if init == "identity":
            nn.init.zeros_(self.fc2.weight)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C): y, in float32 at least."""
        wide = at_least_float32(x)
        return spectrum(resized(wide, None, self.size) if self.size[0] else wide, self.frequencies, self.orthonormal)

    def linear_pools(self, x: torch.Tensor) -> torch.Tensor:
        """(N, K, *spatial) -> (N, K, F): every channel at every frequency, in float32 at least."""
        wide = at_least_float32(x)
        wide = resized(wide, None, self.size) if self.size[0] else wide
        waves = torch.ones(self.distinct.shape[1], 1, dtype=wide.dtype, device=wide.device)
        for axis, extent in enumerate(wide.shape[2:]):
            along = basis(self.distinct[axis].to(wide.dtype), extent, self.orthonormal)
            waves = (waves.unsqueeze(2) * along.unsqueeze(1)).flatten(1)
        return wide.flatten(2) @ waves.T

    def pool_of_channel(self) -> torch.Tensor:
        """(C,): the number of each channel's frequency."""
        return self.number

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C/r): W1 y."""
        # In the type of y, a sum over a map that half precision may not hold. A quantized layer has a method there.
        weight = self.fc1.weight
        if isinstance(weight, torch.Tensor) and weight.dtype != pooled.dtype:
            return F.linear(pooled, weight.to(pooled.dtype))
        squeezed: torch.Tensor = self.fc1(pooled)
        return squeezed

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C/r) -> (N, C): W2 relu(.)."""
        weight, hidden = self.fc2.weight, torch.relu(squeezed)
        if isinstance(weight, torch.Tensor) and weight.dtype != hidden.dtype:
            return F.linear(hidden, weight.to(hidden.dtype))
        excited: torch.Tensor = self.fc2(hidden)
        return excited
