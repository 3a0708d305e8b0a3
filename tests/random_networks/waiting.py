"""Constructs whose truth is decided but which the rules do not tell yet: grown only where they are asked for by name.

One that the rules tell moves to the tuple of its kind (`adding.ADDING`, `lookalikes.LOOKALIKES`), and is tried with
every seed from then on.

Left out altogether, since people differ over what is true of them: the halves that ShuffleNetV2 joins and shuffles,
level skips over stages whose blocks have skips of their own (RoR), pyramids of dilated convolutions (ASPP), an
hourglass whose skip is the identity, and the sum of a projected map and what later stages of the same resolution made
of it, which is a skip add by every rule and a feature pyramid in its author's words.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adding import Basic, Block, Style
from .lookalikes import Inner, LookAlike
from .parts import NORMS, conv


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


class Downsampled(LookAlike):
    """A convolution beside a pool of the same input (ENet's first layer)."""

    def __init__(self, style: Style, channels: int, inner: Inner) -> None:
        super().__init__(style, channels, inner)
        self.main = conv(style.rng, channels, 4, 3, 2, groups=1)
        self.norm = NORMS[style.norm](channels + 4)
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


def settle(blocks: list[nn.Module]) -> None:
    """Where no block has the same code and an affine shortcut, an activated one tells nobody that it is a shortcut."""
    activated = [block for block in blocks if isinstance(block, ActivatedProjection)]
    if all(isinstance(block.project, nn.Sequential) for block in activated):
        for block in activated:
            block.project = nn.Sequential(*list(block.project.children())[:-1])


WAITING_ADDING: dict[str, type[Block]] = {
    "activated-projection": ActivatedProjection,
    "stacked": Stacked,
}
WAITING_LOOKALIKES: dict[str, type[LookAlike]] = {
    "downsampled": Downsampled,
    "factorised": Factorised,
    "shallow-unet": ShallowUNet,
}
# Predictions that are joined and handed out: not a block of the body, so it is drawn among the outputs.
WAITING_OUTPUTS = ("predictions",)
WAITING = (*WAITING_ADDING, *WAITING_LOOKALIKES, *WAITING_OUTPUTS)
