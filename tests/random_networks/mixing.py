"""Blocks that hand over a concat: each is a mixed site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adding import Style, handed
from .parts import conv

JOINS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "cat": lambda parts: torch.cat(parts, 1),
    "keywords": lambda parts: torch.cat(tensors=parts, dim=1),
    "from behind": lambda parts: torch.cat(tuple(parts), dim=-3),
    "concat": lambda parts: torch.concat(parts, dim=1),
}


class Joined(nn.Module):
    """From `i` channels to `o`, by parts that are joined."""

    def __init__(self, style: Style, i: int, o: int) -> None:
        super().__init__()
        self.spelling, self.returns = style.rng.choice(sorted(JOINS)), style.returns

    def hand_over(self, *parts: Tensor) -> Any:
        return handed(self.returns, JOINS[self.spelling](list(parts)))


class Inception(Joined):
    """1x1; 1x1 and 3x3; 1x1 and two 3x3; a pool and 1x1: three or all of these."""

    def __init__(self, style: Style, i: int, o: int) -> None:
        super().__init__(style, i, o)
        rng = style.rng
        pool = rng.choice([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)])
        ways = [
            style.unit(i, 2, 1),
            nn.Sequential(style.unit(i, 3, 1), style.unit(3, 2, 3)),
            nn.Sequential(style.unit(i, 2, 1), style.unit(2, 3, 3), style.unit(3, 2, 3)),
            nn.Sequential(pool, style.unit(i, 2, 1)),
        ]
        rng.shuffle(ways)
        self.ways = nn.ModuleList(ways[: o // 2])

    def forward(self, x: Tensor) -> Any:
        return self.hand_over(*[way(x) for way in self.ways])


class Fire(Joined):
    """SqueezeNet: a squeeze, and two expansions of it."""

    def __init__(self, style: Style, i: int, o: int) -> None:
        super().__init__(style, i, o)
        self.squeeze = style.unit(i, 3, 1)
        self.expand1, self.expand3 = conv(style.rng, 3, o // 2, 1), conv(style.rng, 3, o - o // 2, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.squeeze(x)
        return self.hand_over(F.relu(self.expand1(x)), F.relu(self.expand3(x), inplace=True))


class Forked(Joined):
    """InceptionE: a branch forks into two whose concat is a part of the block's, and no site of its own."""

    def __init__(self, style: Style, i: int, o: int) -> None:
        super().__init__(style, i, o)
        self.straight, self.first = style.unit(i, o - 4, 1), style.unit(i, 3, 1)
        self.upright, self.lying = style.unit(3, 2, 3), style.unit(3, 2, 3)

    def forward(self, x: Tensor) -> Any:
        first = self.first(x)
        return self.hand_over(self.straight(x), torch.cat([self.upright(first), self.lying(first)], 1))


class Reduction(Joined):
    """Inception's: ways of several convolutions that halve the map, beside a pool."""

    def __init__(self, style: Style, i: int, o: int) -> None:
        super().__init__(style, i, o)
        self.short = nn.Sequential(style.unit(i, 2, 1), style.unit(2, o // 2, 3, 2))
        self.long = nn.Sequential(style.unit(i, 2, 1), style.unit(2, 3, 3), style.unit(3, o - o // 2, 3, 2))

    def forward(self, x: Tensor) -> Any:
        return self.hand_over(self.short(x), self.long(x), F.max_pool2d(x, 3, 2, 1))


MIXING: tuple[type[Joined], ...] = (Inception, Fire, Forked)
