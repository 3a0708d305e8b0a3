"""What blocks are made of: convolutions, norms, activations, gains, drops, projections, and spellings of the add."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

Function = Callable[[Tensor], Tensor]


def _iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


def _add_as_statement(a: Tensor, b: Tensor) -> Tensor:
    a.add_(b)
    return a


# Of (branch, shortcut). Those that write into the branch cannot follow an activation, which keeps its output.
FRESH_ADDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda a, b: a + b,
    "swapped": lambda a, b: b + a,
    "torch.add": torch.add,
    "alpha": lambda a, b: torch.add(b, a, alpha=0.5),
    "keywords": lambda a, b: torch.add(input=b, other=a),
    ".add": lambda a, b: a.add(b),
    ".add swapped": lambda a, b: b.add(a),
    "sum": lambda a, b: sum([a, b]),  # type: ignore[dict-item, return-value]
    "__add__": lambda a, b: a.__add__(b),
    "stack": lambda a, b: torch.stack([b, a]).sum(0),
    "stack behind": lambda a, b: torch.stack((a, b), dim=-1).mean(-1),
    "addcmul": lambda a, b: torch.addcmul(b, a, torch.full((a.shape[1], 1, 1), 0.5)),
}
ADDS = {
    **FRESH_ADDS,
    "+=": _iadd,
    ".add_": lambda a, b: a.add_(b),
    ".add_ alpha": lambda a, b: a.add_(b, alpha=2),
    ".add_ as a statement": _add_as_statement,
}
FLOAT_FUNCTIONAL = "FloatFunctional"

FRESH_ACTIVATIONS: tuple[Callable[[], nn.Module | Function], ...] = (
    nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.PReLU, nn.ELU, lambda: nn.LeakyReLU(0.1),
    lambda: F.relu, lambda: F.silu, lambda: F.gelu, lambda: torch.tanh, lambda: torch.relu, lambda: F.softplus,
    lambda: lambda x: x.relu(),
    lambda: lambda x: x * torch.sigmoid(x),
    lambda: lambda x: x.clamp(min=0),
    lambda: lambda x: torch.where(x > 0, x, 0.1 * x),
    lambda: lambda x: torch.maximum(x, 0.2 * x),
)  # fmt: skip
IN_PLACE_ACTIVATIONS: tuple[Callable[[], nn.Module | Function], ...] = (
    lambda: nn.ReLU(inplace=True), lambda: nn.SiLU(inplace=True), lambda: nn.Hardswish(inplace=True),
    lambda: torch.relu_, lambda: lambda x: F.relu(x, inplace=True), lambda: lambda x: x.relu_(),
    lambda: lambda x: F.leaky_relu(x, 0.1, inplace=True),
)  # fmt: skip


def activation(rng: Random, *, fresh: bool = False) -> nn.Module | Function:
    """A module or a function; one that works in place only where nobody else reads the value (not `fresh`)."""
    return rng.choice(FRESH_ACTIVATIONS if fresh or rng.random() < 0.6 else IN_PLACE_ACTIVATIONS)()


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class FrozenNorm(nn.Module):
    """Statistics and weights as buffers, as detectors have them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", torch.rand(channels) + 0.5), ("bias", torch.randn(channels) * 0.2)):
            self.register_buffer(name, value)
        self.register_buffer("mean", torch.randn(channels) * 0.2)
        self.register_buffer("var", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.mean.reshape(1, -1, 1, 1) * scale)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda c: nn.GroupNorm(2 - c % 2, c),
    "instance": lambda c: nn.InstanceNorm2d(c, affine=True),
    "layer": LayerNorm2d,
    "frozen": FrozenNorm,
    "none": lambda c: nn.Identity(),
}


class WeightStandardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def conv(rng: Random, i: int, o: int, k: int = 3, s: int = 1, *, groups: int | None = None) -> nn.Conv2d:
    """A convolution that keeps the size, or halves it; of any of the usual makes."""
    kind = WeightStandardised if k > 1 and i > 1 and rng.random() < 0.1 else nn.Conv2d
    if groups is None:
        groups = gcd(i, o) if rng.random() < 0.1 else 1
    dilation = 2 if k == 3 and rng.random() < 0.1 else 1
    padding = dilation * (k // 2)
    return kind(i, o, k, s, padding, dilation, groups, bias=rng.random() < 0.5)


class Scale(nn.Module):
    """A gain as a layer: one for all channels, or one for each."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _imul(x: Tensor) -> Tensor:
    x *= 0.7
    return x


FRESH_NUMBERS: tuple[Function, ...] = (
    lambda x: x * 0.5, lambda x: 0.3 * x, lambda x: x / 2, lambda x: torch.mul(x, 0.7), lambda x: x.mul(1.5),
    lambda x: x.div(1.25),
)  # fmt: skip


def gain(rng: Random, channels: int, *, fresh: bool) -> nn.Module | Function:
    """None most of the time; else a number, or a layer. Gains that are the block's own parameter are in `adding`."""
    drawn = rng.random()
    if drawn < 0.6:
        return nn.Identity()
    if drawn < 0.8:
        return rng.choice(FRESH_NUMBERS if fresh else (*FRESH_NUMBERS, _imul))
    return Scale(*rng.choice([(), (1,), (channels, 1, 1), (1, channels, 1, 1)]))


class DropPath(nn.Module):
    """Written out, in one of the ways it is found."""

    def __init__(self, keep: float, way: int) -> None:
        super().__init__()
        self.keep, self.way = keep, way

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        if self.way == 0:
            return x.div(self.keep) * x.new_empty(shape).bernoulli_(self.keep)
        mask = torch.floor(self.keep + torch.rand(shape, dtype=x.dtype, device=x.device))
        return x / self.keep * mask


class FunctionalDrop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2, training=self.training)


DROPS: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Dropout(0.2), lambda: nn.Dropout2d(0.2), lambda: StochasticDepth(0.2, "row"),
    lambda: DropPath(0.8, 0), lambda: DropPath(0.8, 1), FunctionalDrop,
)  # fmt: skip


def drop(rng: Random) -> nn.Module:
    return rng.choice(DROPS)() if rng.random() < 0.25 else nn.Identity()


class Padded(nn.Module):
    """A shortcut without weights: every s-th position, and zeros for the new channels."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.more // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.more - before))


def projection(rng: Random, norm: str, i: int, o: int, s: int) -> nn.Module:
    """An affine way past the branch: nothing where nothing has to change, or pools, convolutions, norms, gains."""
    if i == o and s == 1 and rng.random() < 0.85:
        return nn.Identity() if rng.random() < 0.9 else Scale(1)
    if o >= i and rng.random() < 0.2:
        return Padded(o - i, s)
    steps: list[nn.Module] = []
    pooled = rng.random() < 0.4
    if pooled and s > 1:
        steps.append(rng.choice([nn.AvgPool2d(s, ceil_mode=True), nn.MaxPool2d(3, s, 1), nn.AvgPool2d(3, s, 1)]))
    if i != o or not steps or rng.random() < 0.8:
        steps.append(conv(rng, i, o, rng.choice([1, 1, 3]), 1 if pooled else s, groups=1))
        if rng.random() < 0.7:
            steps.append(NORMS[norm](o))
    return steps[0] if len(steps) == 1 else nn.Sequential(*steps)
