"""What looks like a block's end and is none. Those with blocks inside are given them, and only these are sites."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import parts
from .adding import Style
from .parts import conv

Inner = Callable[[Style, int], nn.Module]


class LookAlike(nn.Module):
    """Keeps the shape; `inner` makes the block, which is a site, that some of them hold."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__()


class Dense(LookAlike):
    """DenseNet: every layer's input is the concat of all outputs before it."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.layers = nn.ModuleList(style.unit(channels + 2 * k, 2) for k in range(style.rng.choice([2, 3])))
        self.transition = style.unit(channels + 2 * len(self.layers), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, 1)))
        return self.transition(torch.cat(seen, 1))


class Aggregation(LookAlike):
    """VoVNet: a chain whose steps are all joined at its end."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.first, self.second = style.unit(channels, 3), style.unit(3, 3)
        self.with_input = style.rng.random() < 0.5
        self.end = style.unit(6 + channels * self.with_input, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        steps = [x, first, self.second(first)]
        return self.end(torch.cat(steps[not self.with_input :], 1))


class Reparameterised(LookAlike):
    """RepVGG: parallel affine ways that training keeps apart."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.large, self.small = style.affine(channels, channels), style.affine(channels, channels, 1)
        self.itself = parts.NORMS[style.norm](channels)
        self.act = parts.activation(style.rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.large(x) + self.small(x) + self.itself(x))


class Fusion(LookAlike):
    """Two nonlinear ways, summed: neither is the other's shortcut."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.large, self.small = style.unit(channels, channels), style.unit(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) + self.small(x)


class Exchange(LookAlike):
    """HRNet: two resolutions go their ways and are added to one another."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.fine, self.coarse = style.unit(channels, channels), style.unit(channels, channels, 3, 2)
        self.up, self.down = style.affine(channels, channels, 1), conv(style.rng, channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.fine(x), self.coarse(x)
        low = torch.relu(coarse + self.down(fine))
        high = torch.relu(fine + F.interpolate(self.up(coarse), size=x.shape[2:]))
        return high * torch.sigmoid(low.mean((2, 3), keepdim=True))


class Hourglass(LookAlike):
    """Down, a block, and up to a skip that is a projection, or a unit of its own; perhaps once more within."""

    def __init__(self, style: Style, channels: int, inner: Inner, depth: int = 2) -> None:
        super().__init__(style, channels, inner)
        self.skip = style.affine(channels, channels, 1) if style.rng.random() < 0.5 else style.unit(channels, channels)
        deeper = depth > 1 and style.rng.random() < 0.5
        self.inner = Hourglass(style, channels, inner, depth - 1) if deeper else inner(style, channels)
        self.low = style.unit(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        low = self.inner(self.low(F.max_pool2d(x, 2, ceil_mode=True)))
        return self.skip(x) + F.interpolate(low, size=x.shape[2:], mode="nearest")


class UNet(LookAlike):
    """Down, a block, and up to a concat with what was there, perhaps after a convolution on the way."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.encode, self.low = style.unit(channels, channels), style.unit(channels, channels, 3, 2)
        self.inner = inner(style, channels)
        self.lateral = style.unit(channels, channels, 1) if style.rng.random() < 0.5 else nn.Identity()
        self.decode = style.unit(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        low = F.interpolate(self.inner(self.low(skip)), size=x.shape[2:])
        return self.decode(torch.cat([self.lateral(skip), low], 1))


class CrossStage(LookAlike):
    """CSP: half of the channels pass blocks with sites of their own, and are joined with what passed by."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.through, self.past = style.unit(channels, 4, 1), style.unit(channels, 3, 1)
        self.blocks = nn.Sequential(*(inner(style, 4) for _ in range(style.rng.choice([1, 2]))))
        self.end = style.unit(7, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.cat([self.blocks(self.through(x)), self.past(x)], dim=1))


class Context(LookAlike):
    """One vector for the whole map, added everywhere."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))


class Positions(LookAlike):
    """An embedding of the channels' own, added to every position."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.embedding = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.unit = style.unit(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x + self.embedding)


class Chain(LookAlike):
    """Convolutions one after the other, in a Sequential of Sequentials."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.layers = nn.Sequential(nn.Sequential(style.unit(channels, channels)), style.unit(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Attended(LookAlike):
    """Channel attention that stands alone."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]


class Downsampled(LookAlike):
    """A convolution beside a pool of the same input (ENet's first layer)."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.main = conv(style.rng, channels, 4, 3, 2, groups=1)
        self.norm = parts.NORMS[style.norm](channels + 4)
        self.end = style.unit(channels + 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.main(x), F.max_pool2d(x, 2, ceil_mode=True)], 1)
        return self.end(F.relu(self.norm(both)))


class Factorised(LookAlike):
    """DARTS' reduction: two convolutions that read every other position, one of them shifted."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.even, self.odd = nn.Conv2d(channels, 3, 1, 2), nn.Conv2d(channels, 3, 1, 2)
        self.end = style.unit(6, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.end(torch.cat([self.even(x), self.odd(F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1)))], 1))


class ShallowUNet(LookAlike):
    """A U-Net without blocks inside whose skip passes a convolution: no part of its concat derives from the other."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.lateral, self.low = style.unit(channels, channels, 1), style.unit(channels, channels, 3, 2)
        self.decode = style.unit(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        low = F.interpolate(self.low(x), size=x.shape[2:])
        return self.decode(torch.cat([self.lateral(x), low], 1))


LOOKALIKES: tuple[type[LookAlike], ...] = (
    Dense, Aggregation, Reparameterised, Fusion, Exchange, Hourglass, UNet, CrossStage, Context, Positions, Chain,
    Attended, ShallowUNet,
)  # fmt: skip
# Where the network's blocks end in concats, these are taken for one of them, as Inception-v4's reductions are (M9): no
# structure tells the two apart, so that they are drawn in networks without such blocks only.
PAIRS: tuple[type[LookAlike], ...] = (Downsampled, Factorised)
