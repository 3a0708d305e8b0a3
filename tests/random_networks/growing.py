"""A whole network from a seed, with the paths of the blocks that end at a site."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import parts
from .adding import ADDING, Style, settle
from .lookalikes import LOOKALIKES, PAIRS
from .mixing import MIXING, Reduction
from .stages import HOLDERS, PLAIN_HOLDERS, Again, Unrolled

# Predictions that are joined and handed out are a concat that is no block's.
OUTPUTS = ("logits", "logits", "two", "auxiliary", "pyramid", "predictions")


@dataclass(frozen=True)
class Grown:
    """`blocks` are paths, one for each site, sorted; `size` is (channels, height, width) of an input."""

    model: nn.Module
    blocks: list[str]
    size: tuple[int, int, int]


class Network(nn.Module):
    """Stem, body, heads.

    `outputs`: logits, these and a map, a pyramid of maps, joined predictions, or an auxiliary in training.
    """

    def __init__(self, stem: nn.Module, body: list[nn.Module], heads: nn.ModuleDict, outputs: str) -> None:
        super().__init__()
        self.stem, self.body, self.heads = stem, nn.ModuleList(body), heads
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        maps = []
        for stage in self.body:
            x = stage(x)
            maps.append(x)
        return getattr(self, f"_{self.outputs}")(maps)

    def _logits(self, maps: list[Tensor]) -> Tensor:
        return self.heads["fc"](maps[-1].mean((2, 3)))

    def _two(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.heads["map"](maps[-1]), self.heads["fc"](F.adaptive_avg_pool2d(maps[-1], 1).flatten(1))

    def _auxiliary(self, maps: list[Tensor]) -> dict[str, Tensor]:
        out = {"out": self._logits(maps)}
        if self.training:
            out["aux"] = self.heads["aux"](maps[0])
        return out

    def _predictions(self, maps: list[Tensor]) -> Tensor:
        return torch.cat([self.heads["boxes"](maps[-1]), torch.sigmoid(self.heads["classes"](maps[-1]))], 1)

    def _pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        """A feature pyramid: sums of two resolutions, which are no sites."""
        outs: list[Tensor] = []
        for name in self.heads:
            level = self.heads[name](maps[int(name)])
            outs.append(level + F.interpolate(outs[-1], size=level.shape[2:]) if outs else level)
        return outs


class Grower:
    """Draws a network, and remembers which modules end at a site."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.ends: list[nn.Module] = []
        self.has_pairs = self.rng.random() < 0.3

    def style(self, *, plain: bool = False) -> Style:
        returns = "tensor" if plain else self.rng.choice(["tensor", "tuple", "dict"])
        return Style(self.rng, self.rng.choice(sorted(parts.NORMS)), returns)

    def site(self, block: nn.Module) -> nn.Module:
        """The block itself, which ends at a site if it does not say that it has none."""
        if getattr(block, "is_site", True):
            self.ends.append(block)
        return block

    def inner(self, style: Style, channels: int) -> nn.Module:
        """A residual block that keeps the shape and hands over a tensor, for look-alikes to hold."""
        return self.site(self.rng.choice(ADDING)(Style(style.rng, style.norm), channels, channels, 1))

    def residual_stage(self, i: int, o: int, s: int) -> nn.Module:
        drawn = self.rng.random()
        if i == o and s == 1 and drawn < 0.1:
            style = self.style(plain=True)
            stage = Unrolled([nn.Sequential(style.unit(i, 3), style.affine(3, o)) for _ in range(2)])
            self.ends += [stage] * 2
            return stage
        if i == o and s == 1 and drawn < 0.2:
            return Again(self.site(self.rng.choice(ADDING)(self.style(), i, o, 1)))
        plain = self.rng.random() < 0.4
        style = self.style(plain=plain)
        kind = self.rng.choice(ADDING)
        blocks: list[nn.Module] = []
        for k in range(self.rng.choice([1, 2, 2, 3])):
            # Half of the stages mix their blocks.
            kind = self.rng.choice(ADDING) if drawn > 0.6 else kind
            blocks.append(self.site(kind(style, i if k == 0 else o, o, s if k == 0 else 1)))
        return self.rng.choice(PLAIN_HOLDERS if plain else HOLDERS)(blocks)

    def mixed_stage(self, i: int, s: int) -> tuple[nn.Module, int]:
        """(blocks that end in concats, how many channels they give)."""
        plain = self.rng.random() < 0.4
        style = self.style(plain=plain)
        blocks: list[nn.Module] = []
        if s > 1:
            half = self.rng.choice([4, 5])
            blocks.append(self.site(Reduction(style, i, half)))
            i += half
        for _ in range(self.rng.choice([1, 2])):
            o = self.rng.choice([6, 8])
            blocks.append(self.site(self.rng.choice(MIXING)(style, i, o)))
            i = o
        return self.rng.choice(PLAIN_HOLDERS if plain else HOLDERS)(blocks), i

    def stage(self, i: int, s: int) -> tuple[nn.Module, int]:
        drawn = self.rng.random()
        if drawn < 0.25 and not self.has_pairs:
            return self.mixed_stage(i, s)
        if drawn < 0.5 and s == 1:
            return self.rng.choice((*LOOKALIKES, *PAIRS * self.has_pairs))(self.style(plain=True), i, self.inner), i
        o = i if self.rng.random() < 0.4 else self.rng.randint(3, 10)
        if s > 1 and self.rng.random() < 0.3:
            # Downsampled by a unit of its own, which has no skip.
            unit = self.style(plain=True).unit(i, o, 3, s)
            return nn.Sequential(unit, self.residual_stage(o, o, 1)), o
        return self.residual_stage(i, o, s), o

    def heads(self, outputs: str, widths: list[int], strides: list[int]) -> nn.ModuleDict:
        style = self.style(plain=True)
        heads = nn.ModuleDict()
        if outputs == "pyramid":
            # The last map of each resolution: a sum over two stages of one resolution would be a block's.
            for k in reversed(range(len(widths))):
                if k == len(widths) - 1 or strides[k + 1] > 1:
                    heads[str(k)] = style.affine(widths[k], 4, 1)
            return heads
        if outputs == "predictions":
            heads["boxes"], heads["classes"] = nn.Conv2d(widths[-1], 4, 1), nn.Conv2d(widths[-1], 3, 1)
            return heads
        heads["fc"] = nn.Linear(widths[-1], 5)
        if outputs == "two":
            heads["map"] = nn.Sequential(style.unit(widths[-1], 4), nn.Conv2d(4, 2, 1))
        if outputs == "auxiliary":
            heads["aux"] = nn.Sequential(style.unit(widths[0], 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return heads

    def strides(self) -> list[int]:
        """Of the stem, of the pool after it, and of each stage."""
        stages = self.rng.choice([2, 3, 3, 4])
        drawn = [*(self.rng.choice([1, 2]) for _ in range(2)), 1, *(self.rng.choice([1, 2]) for _ in range(stages - 1))]
        return drawn if prod(drawn) <= 8 else self.strides()

    def network(self) -> Grown:
        width = self.rng.randint(3, 8)
        stem_stride, pool_stride, *strides = self.strides()
        stem: nn.Module = self.style(plain=True).unit(3, width, 3, stem_stride)
        if pool_stride > 1:
            stem = nn.Sequential(stem, nn.MaxPool2d(3, 2, 1))
        body, widths = [], []
        for stride in strides:
            stage, width = self.stage(width, stride)
            body.append(stage)
            widths.append(width)
        outputs = self.rng.choice(OUTPUTS)
        model = Network(stem, body, self.heads(outputs, widths, strides), outputs)
        settle(self.ends)
        _shake(model)
        paths = {id(module): path for path, module in model.named_modules()}
        # At least five positions a side, so that what halves a map twice more still has a map.
        size = max(self.rng.choice([16, 20, 24]), 5 * stem_stride * pool_stride * prod(strides))
        return Grown(model, sorted(paths[id(end)] for end in self.ends), (3, size, size))


def _shake(model: nn.Module) -> None:
    """Statistics and gains of trained norms, so that equal outputs prove something."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)


def grow(seed: int) -> Grown:
    """The network of a seed: the same each time."""
    torch.manual_seed(seed)
    return Grower(seed).network()
