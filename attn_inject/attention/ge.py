"""Gather-Excite: Hu, Shen, Albanie, Sun, Vedaldi, "Gather-Excite: Exploiting Feature Context in Convolutional Neural
Networks", https://arxiv.org/abs/1810.12348

    out = x sigma(interp(gather(x)))                    interp: nearest neighbour, to the size of x

    GE-theta-minus  gather: mean over (2e - 1) x (2e - 1) positions, every e-th, or over all of them; no parameter
    GE-theta        gather: log2(e) depthwise 3 x 3 convolutions of stride 2, each with a norm, ReLU between them; for
                    the global extent one depthwise convolution as large as the map, with a norm
    GE-theta-plus   GE-theta, and two 1 x 1 convolutions C -> C/16 -> C with ReLU between before the interpolation

e is the extent ratio, 2, 4 or 8 in the paper. The authors' network with GE-theta-plus has a ReLU between the gather and
the two convolutions, which is the default here; form="text" is without it, as timm's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import AttentionError
from .averaging import strided_means
from .gating import GATES, ChannelGate, ZeroMix, choice, whole_number
from .layers import Norm, convolution, per_axis
from .se import fitted_width

fx.wrap("strided_means")

_VARIANTS = ("theta-minus", "theta", "theta-plus")


@fx.wrap
def of_size(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    """x itself.

    Raises:
        AttentionError: its spatial size is another.

    """
    if list(x.shape[2:]) != size:
        raise AttentionError(
            f"this global gather has a weight for each position of a map of {size}, and got one of "
            f"{list(x.shape[2:])}: choose extent 2, 4 or 8, or variant theta-minus, which take any size"
        )
    return x


@fx.wrap
def nearest(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(N, C, *small) -> (N, C, *spatial of x), in the type of x."""
    return F.interpolate(y, size=x.shape[2:], mode="nearest").to(x.dtype)


class _Excite(nn.Module):
    """(N, C, *spatial) -> the same: the two 1 x 1 convolutions of theta-plus, `rectified` with a ReLU before them."""

    def __init__(self, channels: int, hidden: int, ndim: int, *, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.fc1 = convolution(ndim)(channels, hidden, 1)
        self.fc2 = convolution(ndim)(hidden, channels, 1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.fc2(torch.relu(self.fc1(torch.relu(y) if self.rectified else y)))
        return made


class MeanGE(ChannelGate):
    """GE-theta-minus with the global extent: the mean of a channel is its logit. No parameter."""

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the pooled vector as it is."""
        return pooled


class GlobalGE(ChannelGate):
    """GE-theta and GE-theta-plus with the global extent, for maps of one size. `gather_excite` has the arguments."""

    pools_mean = False

    def __init__(
        self, channels: int, hidden: int, size: Sequence[int], *, gate: str, init: str, rectified: bool
    ) -> None:
        super().__init__(gate=gate, init=init)
        self.size = list(size)
        self.conv = convolution(len(size))(channels, channels, tuple(size), groups=channels, bias=False)
        self.norm = Norm(channels)
        self.fc = _Excite(channels, hidden, 1, rectified=rectified) if hidden else None
        if init == "identity":
            _zero_last(self.norm, self.fc)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C): one weight for each position of each channel.

        Raises:
            AttentionError: a map of another size.

        """
        gathered: torch.Tensor = self.conv(of_size(x, self.size))
        return gathered.flatten(1)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the norm."""
        normed: torch.Tensor = self.norm(pooled)
        return normed

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): theta-plus' two layers."""
        if self.fc is None:
            return squeezed
        excited: torch.Tensor = self.fc(squeezed.unsqueeze(2)).squeeze(2)
        return excited


class LocalGE(nn.Module):
    """Gather-Excite with an extent ratio, with parameters where `hidden` is not None. `gather_excite` has the rest."""

    traced_whole = True

    def __init__(
        self,
        channels: int,
        extent: int,
        hidden: int | None,
        *,
        gate: str,
        init: str,
        ndim: int,
        rectified: bool = False,
    ) -> None:
        super().__init__()
        self.extent = extent
        self.open = choice(GATES, "gate", gate)
        self.gain = 2.0 if init == "identity" else 1.0
        self.gather: nn.Sequential | None = None
        self.fc: _Excite | None = None
        if hidden is not None:
            steps = extent.bit_length() - 1
            layers: list[nn.Module] = []
            for step in range(steps):
                made = convolution(ndim)(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
                layers += [made, Norm(channels), *([nn.ReLU()] if step < steps - 1 else [])]
            self.gather = nn.Sequential(*layers)
            self.fc = _Excite(channels, hidden, ndim, rectified=rectified) if hidden else None
            if init == "identity":
                _zero_last(layers[-1], self.fc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        y: torch.Tensor = strided_means(x, self.extent) if self.gather is None else self.gather(x)
        if self.fc is not None:
            y = self.fc(y)
        return x * nearest(self.open(y) * self.gain, x)


def _zero_last(norm: nn.Module, excite: nn.Module | None) -> None:
    """Make the logits 0."""
    for parameter in (norm if excite is None else excite.fc2).parameters():  # type: ignore[union-attr]
        nn.init.zeros_(parameter)


def gather_excite(
    channels: int,
    variant: str = "theta-minus",
    extent: int = 0,
    *,
    size: int | Sequence[int] | None = None,
    reduction: float = 16,
    form: str = "code",
    gate: str = "sigmoid",
    init: str = "paper",
    ndim: int = 2,
) -> nn.Module:
    """Gather-Excite. With k = 3^ndim, e = extent, h = C/r and S the positions of a map, its parameters are

        theta-minus     0
        theta           log2(e) (k + 2) C, or (S + 2) C for the global extent
        theta-plus      as many and 2 C h + h + C

    A hidden width of nothing becomes 1; `adjustments` says so. A batch of one value per channel is normalised by the
    running statistics, in train mode too (`layers.Norm`).

    Args:
        channels: C of the maps.
        variant: "theta-minus", "theta" or "theta-plus".
        extent: e, a power of two from 2; 0 is the global extent.
        size: of the maps, which the global extent with parameters needs: a number for all axes or one for each.
        reduction: r of theta-plus.
        form: of theta-plus: "code", with a ReLU after the gather, or "text", without.
        gate: "sigmoid" or "hardsigmoid".
        init: "identity" zeroes the last layer and doubles the gate, so that it starts at exactly 1; theta-minus, which
        has none, is mixed in.
        ndim: the number of spatial axes, 1 to 3.

    Raises:
        AttentionError: an unknown variant or form, an extent that is no power of two, a global extent with parameters
        and no size; and when it runs, a map of another size than that.

    """
    choice(dict.fromkeys(_VARIANTS), "variant", variant)
    rectified: bool = choice({"code": True, "text": False}, "form", form)
    if whole_number("extent", extent, 0) & (extent - 1) or extent == 1:
        raise AttentionError(f"extent must be 0 (global) or a power of two from 2, got {extent}")
    if size is not None and variant == "theta-minus":
        raise AttentionError(
            "size is for the variants with parameters, theta and theta-plus: choose one, or leave it out"
        )
    width, fitted, unmet = fitted_width(channels, reduction)
    hidden = {"theta-minus": None, "theta": 0, "theta-plus": width}[variant]
    if hidden is None:
        mean = MeanGE(gate=gate) if extent == 0 else LocalGE(channels, extent, None, gate=gate, init="paper", ndim=ndim)
        return ZeroMix(mean) if init == "identity" else mean
    if extent == 0:
        if size is None:
            raise AttentionError(
                f"{variant} with the global extent has a weight for each position: give the size of the maps, or "
                "extent 2, 4 or 8, or choose variant theta-minus"
            )
        wanted = per_axis("size", size, ndim)
        module: nn.Module = GlobalGE(channels, hidden, wanted, gate=gate, init=init, rectified=rectified)
    else:
        module = LocalGE(channels, extent, hidden, gate=gate, init=init, ndim=ndim, rectified=rectified)
    if hidden:
        module.adjustments, module.unmet = fitted, unmet  # type: ignore[assignment]
    return module
