"""R14: sums of what several blocks put out beside their ends, and the blocks themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import find_sites
from attn_inject.sites.reasons import OUTPUTS

from ..toys import conv
from .graphs import same_at_identity

SIZE = (16, 8, 8)


class Two(nn.Module):
    """A block that gives what is added to its input, and an output of its own, both from one value (Conv-TasNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(16, 24), nn.PReLU(), conv(24, 24), nn.PReLU())
        self.residual, self.skip = conv(24, 16, 1), conv(24, 16, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.body(x)
        return self.residual(y), self.skip(y)


class Summed(nn.Module):
    """Blocks in a row, and the sum of what `step` makes of each."""

    def __init__(self, start: float | None, step: Callable[[Any, torch.Tensor], tuple[torch.Tensor, Any]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Two() for _ in range(4))
        self.projections = nn.ModuleList(conv(16, 16, 1) for _ in range(4))
        self.start, self.step, self.head = start, step, nn.Sequential(nn.PReLU(), conv(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: Any = self.start
        for block, projection in zip(self.blocks, self.projections, strict=True):
            x, output = self.step((block, projection), x)
            total = output if total is None else total + output
        return self.head(total)


def _skip_of_the_branch(own: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    residual, skip = own[0](x)
    return x + residual, skip


def _projected(own: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x + own[0](x)[0]
    return x, own[1](x)


def _as_it_is(own: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x + own[0](x)[0]
    return x, x


@pytest.mark.parametrize("start", [None, 0.0])
@pytest.mark.parametrize(
    ("step", "blocks"),
    # The end of the last block is read by nothing where its branch has an output of its own.
    [(_skip_of_the_branch, 3), (_projected, 4), (_as_it_is, 4)],
)
def test_the_blocks_are_sites_and_the_sum_of_their_outputs_is_none(
    step: Callable[..., Any], blocks: int, start: float | None
) -> None:
    model = Summed(start, step)
    sites = find_sites(model, input_size=SIZE)
    assert [site.node for site in sites] == [f"blocks_{number}_residual" for number in range(blocks)]
    assert OUTPUTS in [skipped.reason for skipped in sites.skipped]
    same_at_identity(model, SIZE)


class Nested(nn.Module):
    """A group whose skip goes around its blocks, which are read on the way too: no sum of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.last, self.head = nn.ModuleList(Two() for _ in range(3)), conv(16, 16), conv(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for block in self.blocks:
            y = y + block(y)[0]
        return self.head(torch.cat([x + self.last(y), y], 1))


def test_a_group_is_a_block_though_its_blocks_are_read_elsewhere() -> None:
    sites = find_sites(Nested(), input_size=SIZE)
    assert [site.node for site in sites] == [*(f"blocks_{number}_residual" for number in range(3)), "last"]
