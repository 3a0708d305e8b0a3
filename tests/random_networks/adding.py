"""Blocks with a skip add: each is a residual site, and the only one in it unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import parts
from .parts import conv


@dataclass(frozen=True)
class Style:
    """What the blocks of one stage have in common. `returns` is how a block hands over its output."""

    rng: Random
    norm: str
    returns: str = "tensor"

    def unit(self, i: int, o: int, k: int = 3, s: int = 1, *, groups: int | None = None) -> nn.Sequential:
        """Convolution, norm, activation."""
        act = parts.activation(self.rng)
        layers = [conv(self.rng, i, o, k, s, groups=groups), parts.NORMS[self.norm](o)]
        return nn.Sequential(*layers, act if isinstance(act, nn.Module) else Called(act))

    def affine(self, i: int, o: int, k: int = 3, *, groups: int | None = None) -> nn.Sequential:
        """Convolution, norm."""
        return nn.Sequential(conv(self.rng, i, o, k, groups=groups), parts.NORMS[self.norm](o))


class Called(nn.Module):
    """A function as a module, for a Sequential."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Block(nn.Module):
    """The end that all blocks here share: gain, drop, projection, add, and perhaps an activation."""

    ends_bent = False

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__()
        rng = style.rng
        self.returns = style.returns
        self.spelling = rng.choice([*(parts.FRESH_ADDS if self.ends_bent else parts.ADDS), parts.FLOAT_FUNCTIONAL])
        if self.spelling == parts.FLOAT_FUNCTIONAL:
            self.floats = torch.ao.nn.quantized.FloatFunctional()
        self.gamma = nn.Parameter(torch.rand(rng.choice([(), (o, 1, 1)])) + 0.5) if rng.random() < 0.1 else None
        self.scale = parts.gain(rng, o, fresh=self.ends_bent)
        self.drop = parts.drop(rng)
        self.project = parts.projection(rng, style.norm, i, o, s)
        self.last = parts.activation(rng) if rng.random() < 0.6 else nn.Identity()

    def finish(self, branch: Tensor, shortcut: Tensor) -> Any:
        """The block's output, of its branch and what its shortcut starts from."""
        if self.gamma is not None:
            branch = self.gamma * branch
        branch, shortcut = self.drop(self.scale(branch)), self.project(shortcut)
        if self.spelling == parts.FLOAT_FUNCTIONAL:
            out = self.floats.add(branch, shortcut)
        else:
            out = parts.ADDS[self.spelling](branch, shortcut)
        return handed(self.returns, self.last(out))


def handed(returns: str, out: Tensor) -> Any:
    if returns == "tuple":
        return out, out.shape[1]
    return {"channels": out.shape[1], "out": out} if returns == "dict" else out


def taken(value: Any) -> Tensor:
    """The map in what a block returned."""
    out: Tensor = value["out"] if isinstance(value, dict) else value[0] if isinstance(value, tuple) else value
    return out


class Basic(Block):
    """ResNet's: two convolutions, with the activation called twice if it is one module."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.conv1, self.norm1 = conv(style.rng, i, o, 3, s), parts.NORMS[style.norm](o)
        self.act = parts.activation(style.rng)
        self.conv2, self.norm2 = conv(style.rng, o, o), parts.NORMS[style.norm](o)

    def forward(self, x: Tensor) -> Any:
        out = self.act(self.norm1(self.conv1(x)))
        return self.finish(self.norm2(self.conv2(out)), x)


class Bent(Block):
    """The branch ends in an activation."""

    ends_bent = True

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.branch = nn.ModuleList([style.unit(i, o, 3, s), style.unit(o, o)][: style.rng.choice([1, 2])])

    def forward(self, x: Tensor) -> Any:
        out = x
        for unit in self.branch:
            out = unit(out)
        return self.finish(out, x)


class Bottleneck(Block):
    """1x1, 3x3 in groups, 1x1; perhaps with channel attention of its own before the end."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        middle = max(o // 2, 2)
        groups = middle if style.rng.random() < 0.3 else 1
        self.reduce = style.unit(i, middle, 1)
        self.spatial = style.unit(middle, middle, 3, s, groups=groups)
        self.expand = style.affine(middle, o, 1)
        self.attention = Squeeze(o) if style.rng.random() < 0.2 else None

    def forward(self, x: Tensor) -> Any:
        identity = x
        x = self.reduce(x)
        x = self.spatial(x)
        x = self.expand(x)
        if self.attention is not None:
            x = self.attention(x)
        return self.finish(x, identity)


class Squeeze(nn.Module):
    """Squeeze-and-Excitation as a network's own code has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.silu(self.down(y))))


class Preactivated(Block):
    """ResNetV2: norm and activation first; the shortcut starts from the input or from what is activated."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        # Without a norm in between, one in place would change the shortcut.
        self.norm1, self.act1 = parts.NORMS[style.norm](i), parts.activation(style.rng, fresh=True)
        self.conv1 = conv(style.rng, i, o, 3, s)
        self.norm2, self.act2 = parts.NORMS[style.norm](o), parts.activation(style.rng)
        self.conv2 = conv(style.rng, o, o)
        self.from_activated = style.rng.random() < 0.5

    def forward(self, x: Tensor) -> Any:
        y = self.act1(self.norm1(x))
        out = self.conv2(self.act2(self.norm2(self.conv1(y))))
        return self.finish(out, y if self.from_activated else x)


class Inverted(Block):
    """MobileNetV2: wide within, depthwise, and nothing nonlinear at the end."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.last = nn.Identity()
        wide = i * style.rng.choice([2, 3])
        layers: list[nn.Module] = [style.unit(i, wide, 1)] if style.rng.random() < 0.8 else []
        wide = wide if layers else i
        layers += [style.unit(wide, wide, 3, s, groups=wide), style.affine(wide, o, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Any:
        return self.finish(self.body(x), x)


class Depthwise(Block):
    """ConvNeXt: a depthwise convolution, then layers over the last axis."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.mix = nn.Conv2d(i, i, 5, s, 2, groups=i)
        self.norm = nn.LayerNorm(i)
        self.expand, self.act, self.reduce = nn.Linear(i, 2 * i), nn.GELU(), nn.Linear(2 * i, o)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.reduce(self.act(self.expand(y)))
        return self.finish(y.permute(0, 3, 1, 2), x)


class TwoPath(Block):
    """Two ways within the branch, joined by a concat (Inception-ResNet) or a sum (selective kernels) inside it."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.small, self.large = style.unit(i, o, 1, s), style.unit(i, o, 5, s)
        self.joins = style.rng.random() < 0.5
        self.end = style.affine(2 * o if self.joins else o, o, 1)

    def forward(self, x: Tensor) -> Any:
        small, large = self.small(x), self.large(x)
        return self.finish(self.end(torch.cat([small, large], 1) if self.joins else small + large), x)


class Rebuilt(Block):
    """Parallel affine ways, summed before their activation, within the branch."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.large = nn.Sequential(conv(style.rng, i, o, 3, s), parts.NORMS[style.norm](o))
        self.small = nn.Sequential(conv(style.rng, i, o, 1, s), parts.NORMS[style.norm](o))
        self.end = style.affine(o, o)

    def forward(self, x: Tensor) -> Any:
        return self.finish(self.end(F.silu(self.large(x) + self.small(x))), x)


class Gated(Block):
    """A gated linear unit: one half of the channels opens the other."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.open = conv(style.rng, i, 2 * o, 3, s, groups=1)
        self.end = style.affine(o, o, 1)

    def forward(self, x: Tensor) -> Any:
        a, b = self.open(x).chunk(2, 1)
        return self.finish(self.end(a * torch.sigmoid(b)), x)


class SplitScale(Block):
    """Res2Net: slices of the channels, each added to the next one's input; these sums are no sites."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.reduce = style.unit(i, 6, 1, s)
        self.slices = nn.ModuleList(style.unit(2, 2) for _ in range(2))
        self.end = style.affine(6, o, 1)

    def forward(self, x: Tensor) -> Any:
        first, *others = torch.split(self.reduce(x), 2, 1)
        outs = [first]
        for layer, part in zip(self.slices, others, strict=True):
            outs.append(layer(part if len(outs) == 1 else outs[-1] + part))
        return self.finish(self.end(torch.cat(outs, 1)), x)


class DenseInside(Block):
    """ESRGAN: every layer sees all before it; the concats are feature reuse, the sum is a site."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.first, self.second = style.unit(i, 3, 3), style.unit(i + 3, 3, 3)
        self.end = conv(style.rng, i + 6, o, 3, s, groups=1)

    def forward(self, x: Tensor) -> Any:
        seen = [x, self.first(x)]
        seen.append(self.second(torch.cat(seen, 1)))
        return self.finish(self.end(torch.cat(seen, 1)), x)


class PoolMixed(Block):
    """PoolFormer: a sum with a pool, which has no convolution and is no site, and then one with two layers."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.norm1, self.pool = parts.NORMS[style.norm](i), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.norm2, self.mlp = (
            parts.NORMS[style.norm](i),
            nn.Sequential(style.unit(i, 2 * i, 1, s), conv(style.rng, 2 * i, o, 1)),
        )

    def forward(self, x: Tensor) -> Any:
        y = self.norm1(x)
        x = x + (self.pool(y) - y)
        return self.finish(self.mlp(self.norm2(x)), x)


class Optional(nn.Module):
    """MobileNetV2's own: the skip is there only where the shape stays, and elsewhere the block is no site."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__()
        self.is_site = i == o and s == 1
        self.body = nn.Sequential(
            style.unit(i, 2 * i, 1), style.unit(2 * i, 2 * i, 3, s, groups=2 * i), style.affine(2 * i, o, 1)
        )
        self.returns = style.returns

    def forward(self, x: Tensor) -> Any:
        return handed(self.returns, x + self.body(x) if self.is_site else self.body(x))


class Returning(nn.Module):
    """A branch of any make, and the sum in a module around it that knows nothing else (ConvMixer)."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__()
        layers = [style.unit(i, o, 3, s), style.affine(o, o)]
        self.function = nn.Sequential(*layers)
        self.shortcut = parts.projection(style.rng, style.norm, i, o, s)
        self.returns = style.returns

    def forward(self, x: Tensor) -> Any:
        return handed(self.returns, self.function(x) + self.shortcut(x))


class ActivatedProjection(Basic):
    """A block whose shortcut, where it has to change the shape, ends in an activation; its brothers' does not."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.project = style.unit(i, o, 1, s) if i != o or s > 1 else nn.Identity()


class Stacked(Block):
    """Parallel ways that are stacked along a new axis and summed over it (ESNet)."""

    def __init__(self, style: Style, i: int, o: int, s: int) -> None:
        super().__init__(style, i, o, s)
        self.reduce = style.unit(i, o, 1, s)
        self.ways = nn.ModuleList(style.affine(o, o) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        y = self.reduce(x)
        return self.finish(torch.stack([way(y) for way in self.ways]).sum(0), x)


ADDING: tuple[type[Block | Optional | Returning], ...] = (
    Basic, Bent, Bottleneck, Preactivated, Inverted, Depthwise, TwoPath, Rebuilt, Gated, SplitScale, DenseInside,
    PoolMixed, Optional, Returning,
    ActivatedProjection, Stacked,
)  # fmt: skip


def settle(blocks: list[nn.Module]) -> None:
    """Where no block has the same add and an affine shortcut, an activated one tells nobody that it is a shortcut."""
    activated = [block for block in blocks if isinstance(block, ActivatedProjection)]
    told = {block.spelling for block in activated if not isinstance(block.project, nn.Sequential)}
    for block in activated:
        if isinstance(block.project, nn.Sequential) and block.spelling not in told:
            block.project = nn.Sequential(*list(block.project.children())[:-1])
