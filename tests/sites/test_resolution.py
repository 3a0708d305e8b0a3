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


class WrittenOut(nn.Module):
    """A U-Net that adds its skips, of `depth` levels, all written out in one forward, with each step its own child."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 8), conv(8, 8)
        self.downs = nn.ModuleList(conv(8, 8, s=2) for _ in range(depth))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(8, 8, 2, 2) for _ in range(depth))
        self.body = nn.Sequential(conv(8, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = torch.relu(self.stem(x))
        x2 = torch.relu(self.downs[0](x1))
        if len(self.downs) == 1:
            return self.last(x1 + self.ups[0](self.body(x2)))
        x3 = self.body(torch.relu(self.downs[1](x2)))
        x4 = x2 + torch.relu(self.ups[0](x3))
        return self.last(x1 + torch.relu(self.ups[1](self.body(x4))))


def test_all_levels_of_a_u_net_that_is_written_out_are_fusions() -> None:
    """Real-CUGAN: the innermost has no block end within it, and is a level of the same U-Net."""
    blocks, reasons = _seen(WrittenOut(2))
    assert blocks == []
    assert [reason.endswith("R6") for reason in reasons] == [True, True]


def test_one_look_at_a_coarser_map_alone_is_a_block() -> None:
    assert _seen(WrittenOut(1)) == ([""], [])
