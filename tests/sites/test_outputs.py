"""R14: sums of what several blocks put out beside their ends, and the blocks themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import find_sites
from attn_inject.sites.reasons import OUTPUTS

from ..toys import SPELLINGS, Block, conv
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


def _body() -> nn.Module:
    return nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))


class Exits(nn.Module):
    """Blocks go on from a sum of what earlier ones put out: stacked hourglasses, heads whose answer is fed back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.ModuleList(Block(SPELLINGS["+"]) for _ in range(3)) for _ in range(2))
        self.merge, self.exit, self.back = conv(16, 16, 1), conv(16, 4, 1), conv(4, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, first = x, x
        for number, block in enumerate(self.a):
            y = block(y)
            first = y if number == 0 else first
        out = self.exit(y)
        z = x + self.merge(y) + self.back(out) + first
        for block in self.b:
            z = block(z)
        return torch.cat([out, self.exit(z)], 1)


class Momentum(nn.Module):
    """A momentum residual network: v = 0.9 v + 0.1 f(x); x = x + v. The sum is read by the block that adds next."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.start = nn.ModuleList(_body() for _ in range(4)), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.start(x)
        for f in self.f:
            v = 0.9 * v + 0.1 * f(x)
            x = x + v
        return torch.relu(x)


class Pair(nn.Module):
    """A RevNet: y1 = x1 + F(x2); y2 = x2 + G(y1)."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = (nn.ModuleList(_body() for _ in range(3)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = b = x
        for f, g in zip(self.f, self.g, strict=True):
            a = a + f(b)
            b = b + g(a)
        return torch.cat([a, b], 1)


@pytest.mark.parametrize("model", [Exits(), Momentum(), Pair()], ids=lambda model: type(model).__name__)
def test_sums_that_the_network_goes_on_from_are_none_of_these(model: nn.Module) -> None:
    sites = find_sites(model, input_size=SIZE)
    assert OUTPUTS not in [skipped.reason for skipped in sites.skipped]
    blocks = [site.block for site in sites]
    assert {name for name, part in model.named_modules() if isinstance(part, Block)} <= set(blocks)
    if not isinstance(model, Exits):
        assert len(blocks) == {Momentum: 8, Pair: 6}[type(model)]


class DenseLayer(nn.Module):
    """Adds its branch to a value that all layers of its stage are given (DexiNed)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width))

    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        x, shared = pair
        return 0.5 * (self.body(torch.relu(x)) + shared), shared


class DenseStages(nn.Module):
    """A stage begins where the main line's own branch has ended: the first layer's shortcut starts there."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem, self.main, self.side = conv(16, 16), nn.Sequential(conv(16, 16), nn.ReLU()), conv(16, 16, 1)
        self.given, self.head = conv(16, 16, 1), conv(16, 4, 1)
        self.layers = nn.Sequential(*(DenseLayer(16) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        main = self.main(x)
        x, _ = self.layers((main + self.side(x), self.given(main)))
        return self.head(x)


def test_layers_of_one_code_that_add_to_one_value_have_one_verdict() -> None:
    """R9f."""
    model = DenseStages(3)
    assert [site.block for site in find_sites(model, input_size=SIZE)] == ["", "layers.0", "layers.1", "layers.2"]
    same_at_identity(model, SIZE)
