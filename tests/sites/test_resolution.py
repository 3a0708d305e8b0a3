"""R6 where the way up is not one operation, but a block of two ways that both come up."""

from __future__ import annotations

import torch
from torch import nn

from attn_inject import find_sites

from ..toys import conv


class Up(nn.Module):
    """A residual block that doubles the size on both of its ways."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2), nn.ReLU(), conv(width, width))
        self.shortcut = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.shortcut(x)


class Hourglass(nn.Module):
    """Down, up by a residual block, and added to what was there: the block is one, the sum is a fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 8), conv(8, 8)
        self.down, self.up = nn.Sequential(conv(8, 8, s=2), nn.ReLU()), Up(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.last(x + self.up(self.down(x)))


def _seen(model: nn.Module) -> tuple[list[str], list[str]]:
    sites = find_sites(model, input_size=(3, 16, 16))
    return [site.block for site in sites], [skip.reason for skip in sites.skipped]


def test_an_hourglass_that_comes_up_in_a_block_of_two_ways() -> None:
    blocks, reasons = _seen(Hourglass())
    assert blocks == ["up"]
    assert [reason.endswith("R6") for reason in reasons] == [True]
