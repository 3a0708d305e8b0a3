"""Whether a concat is what a block hands over: heads (M8), pairs (M9), and one verdict for the same code (M11)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import find_sites
from attn_inject.sites.reasons import CROSS_STAGE, FEATURE_REUSE, HEAD, PAIR, SAME_CODE, SLICES

from ..toys import SPELLINGS, Block, conv
from .graphs import same_at_identity

SIZE = (3, 16, 16)


def _found(model: nn.Module) -> tuple[list[str], list[str]]:
    """The blocks of the mixed sites, and the reasons of the other concats."""
    sites = find_sites(model, input_size=SIZE)
    mixed = [site.block for site in sites if site.kind == "mixed"]
    return mixed, [skipped.reason for skipped in sites.skipped if skipped.operation == "concat"]


class Branches(nn.Module):
    """Parallel branches and a concat: the shape of a Fire or an Inception block, a stem, a reduction and a head."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Other(Branches):
    """The same in code of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _fire(i: int = 16) -> list[nn.Module]:
    return [nn.Sequential(conv(i, 8, 1), nn.ReLU()), nn.Sequential(conv(i, 8), nn.ReLU())]


def _down(i: int = 16) -> list[nn.Module]:
    """ENet: a convolution beside a pool of the same input."""
    return [conv(i, 16, s=2), nn.MaxPool2d(2)]


def _stem() -> list[nn.Module]:
    """HGNetV2: a pool beside two convolutions, of which only the second keeps the size."""
    return [nn.MaxPool2d(2, 1, 1), nn.Sequential(conv(16, 8, 2), nn.ReLU(), conv(8, 16, 2), nn.AvgPool2d(2, 1))]


def _reduction(i: int = 16) -> list[nn.Module]:
    """Inception: one branch convolves twice."""
    return [conv(i, 8, s=2), nn.Sequential(conv(i, 8), nn.ReLU(), conv(8, 8, s=2)), nn.MaxPool2d(2)]


class Shifted(nn.Module):
    """DARTS' factorised reduction: two convolutions of stride 2, one of them shifted by a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 8, 1, 2), nn.Conv2d(16, 8, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        return torch.cat([self.a(x), self.b(F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:])], 1)


def _net(*blocks: nn.Module, width: int = 16) -> nn.Module:
    return nn.Sequential(conv(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def test_what_goes_only_to_the_outputs_is_a_head() -> None:
    """M8: CenterNet's and LFFD's predictions."""
    assert _found(nn.Sequential(conv(3, 16), Branches(*_fire()))) == ([], [HEAD])
    assert _found(nn.Sequential(conv(3, 16), Branches(*_fire()), nn.Sigmoid(), nn.Flatten())) == ([], [HEAD])


@pytest.mark.parametrize(
    "end",
    [
        lambda: [conv(16, 5, 1)],  # SqueezeNet's classifier
        lambda: [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)],
    ],
)
def test_what_a_layer_reads_is_handed_over(end: Callable[[], list[nn.Module]]) -> None:
    assert _found(nn.Sequential(conv(3, 16), Branches(*_fire()), *end())) == (["1"], [])


def test_the_last_block_of_a_backbone_is_one_as_its_brothers_are() -> None:
    """M11 over M8: features without a classifier."""
    assert _found(nn.Sequential(conv(3, 16), Branches(*_fire()), Branches(*_fire()))) == (["1", "2"], [])
    assert _found(nn.Sequential(conv(3, 16), Branches(*_fire()), Other(*_fire()))) == (["1"], [HEAD])


@pytest.mark.parametrize(
    "block",
    [
        lambda: Branches(*_down()),
        lambda: Branches(*_stem()),
        lambda: Branches(conv(16, 16), nn.MaxPool2d(3, 1, 1)),
        Shifted,
    ],
)
def test_pairs_are_stems_and_reductions(block: Callable[[], nn.Module]) -> None:
    """M9."""
    made = block()
    width = made(torch.zeros(1, 16, 16, 16)).shape[1]
    assert _found(_net(made, width=width)) == ([], [PAIR])


def test_an_inception_reduction_is_a_block() -> None:
    model = _net(Branches(*_reduction()), width=32)
    assert _found(model) == (["1"], [])
    same_at_identity(model, SIZE)


def test_single_convolutions_that_keep_the_size_are_a_fire_block() -> None:
    assert _found(_net(Branches(*_fire()))) == (["1"], [])


def test_a_pair_is_a_block_where_its_brothers_are() -> None:
    """M11 over M9: the same code."""
    assert _found(_net(Branches(*_fire()), Branches(*_down()), width=32)) == (["1", "2"], [])


def test_a_pair_is_a_block_where_the_networks_blocks_are_mixed() -> None:
    """M9: Inception-v4 reduces by a convolution beside a pool, in code of its own."""
    fires = [Branches(*_fire()), Branches(*_fire())]
    assert _found(_net(Other(*_down()), Branches(*_fire(32)), Branches(*_fire()))) == (["1", "2", "3"], [])
    assert _found(_net(*fires[:1], Other(*_down()), width=32)) == (["1"], [PAIR])
    # PolyNet: two reductions of several convolutions beside residual blocks say nothing of its stem.
    reductions = [Branches(*_reduction()), Branches(*_reduction(32))]
    assert _found(_net(Other(*_down()), conv(32, 16), *reductions, width=48)) == (["3", "4"], [PAIR])


class Shuffled(nn.Module):
    """ShuffleNetV2: of stride 2 both branches convolve; of stride 1 half of the map is handed through."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(16, 8, s=2), nn.ReLU(), conv(8, 8)) if stride == 2 else None
        self.second = nn.Sequential(conv(16 if stride == 2 else 8, 8, s=stride), nn.ReLU(), conv(8, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first is None:
            first, second = x.chunk(2, 1)
            x = torch.cat([first, self.second(second)], 1)
        else:
            x = torch.cat([self.first(x), self.second(x)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_units_of_one_code_get_one_verdict() -> None:
    """M11. None of them: the paper's own SE stands on the branch, and a gate on the output would gate what is handed
    through, again in every unit. The concats are two lines of one `forward`, of which every call runs one."""
    model = _net(Shuffled(2), Shuffled(1), Shuffled(1))
    assert _found(model) == ([], [SAME_CODE, SLICES, SLICES])
    # Alone, the reduction would be an Inception's.
    assert _found(_net(Shuffled(2))) == (["1"], [])


def test_the_majority_of_the_code_decides() -> None:
    """M11: one block of many that passes its input on makes the others none the less blocks."""
    reuse = Branches(nn.Identity(), conv(16, 16))
    assert _found(_net(Branches(*_fire()), Branches(*_fire()), reuse, width=32)) == (["1", "2"], [FEATURE_REUSE])
    reuse = Branches(nn.Identity(), conv(16, 16))
    assert _found(_net(Branches(*_fire()), reuse, width=32)) == ([], [SAME_CODE, FEATURE_REUSE])


def test_a_cross_stage_concat_without_a_block_end_is_one_still() -> None:
    """M11: YOLOv5's neck has no skip adds in the stages whose backbone twins have them."""

    def stage(middle: nn.Module) -> nn.Module:
        return Branches(conv(16, 8, 1), nn.Sequential(conv(16, 8, 1), middle))

    with_ends, without = stage(Block(SPELLINGS["+"], 8, 8)), stage(nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8)))
    assert _found(_net(with_ends, without)) == ([], [CROSS_STAGE, SAME_CODE])
    # However many there are: what the code joins is a stage, by one that shows it.
    more = [stage(nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))) for _ in range(3)]
    assert _found(_net(*more, with_ends)) == ([], [SAME_CODE] * 3 + [CROSS_STAGE])
    assert _found(_net(without)) == (["1"], [])
