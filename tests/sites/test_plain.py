"""Plain sites: blocks without a skip add, in networks whose other blocks have one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import PlanError, find_sites, inject, make_plan

from ..toys import SPELLINGS, Block, conv

KINDS = ("residual", "plain")


class Optional(nn.Module):
    """A block that adds its input where it can; its activation comes last either way."""

    def __init__(self, i: int, o: int, s: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(i, o, s=s), nn.BatchNorm2d(o), conv(o, o), nn.BatchNorm2d(o)
        self.drop = nn.Dropout(0.1)
        self.skip = i == o and s == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(y + x if self.skip else y)


class Fusing(Optional):
    """The same code by inheritance, but around an add of its own that is no skip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv1(x)) + torch.relu(self.conv2(torch.relu(self.bn1(x))))


class Narrow(nn.Module):
    """A linear bottleneck of another class than the blocks with an add."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.dw, self.bn, self.pw = conv(i, i), nn.BatchNorm2d(i), conv(i, o, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pw(torch.relu(self.bn(self.dw(x))))


class Linear(nn.Module):
    """An inverted residual: nothing after the add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = Narrow(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def _net(*blocks: nn.Module, width: int = 16, out: int = 16) -> nn.Module:
    stem = nn.Sequential(conv(3, width), nn.ReLU())
    return nn.Sequential(stem, nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, 5)).eval()


def _plain(model: nn.Module) -> list[tuple[str, str]]:
    sites = find_sites(model, kinds=KINDS, input_size=(3, 16, 16))
    return [(site.block, site.node) for site in sites if site.kind == "plain"]


@pytest.mark.parametrize(
    ("make", "blocks", "with_add"),
    [
        (lambda: torchvision.models.mobilenet_v2(), 17, 10),
        (lambda: torchvision.models.mobilenet_v3_large(), 15, 10),
        (lambda: torchvision.models.efficientnet_b0(), 16, 9),
        (lambda: timm.create_model("efficientnet_b0"), 16, 9),
        (lambda: timm.create_model("mixnet_s"), 16, 11),
        (lambda: torchvision.models.resnet18(), 8, 8),
    ],
)
def test_published_numbers_of_blocks(make: Callable[[], nn.Module], blocks: int, with_add: int) -> None:
    """The papers' own numbers: MobileNetV2 Table 2, MobileNetV3 Table 1, EfficientNet Table 1, MixNet Figure 4."""
    with torch.device("meta"):
        model = make()
    assert len(find_sites(model, kinds=KINDS)) == blocks
    assert len(find_sites(model)) == with_add


def test_a_block_of_the_same_code_is_gated_where_its_peers_are() -> None:
    """Before the activation and the dropout, as before the add."""
    model = _net(Optional(16, 16), Optional(16, 24, 2), out=24)
    assert _plain(model) == [("1.1", "_1_1_bn2")]
    patched = inject(model, "se", kinds=KINDS, reduction=4, input_size=(3, 16, 16)).eval()
    block, gate = patched.get_submodule("1.1"), patched.get_submodule("1.1.se")
    x = torch.randn(2, 3, 16, 16)
    inner = patched.get_submodule("1.0.se")
    y = torch.relu(model[0][0](x))
    first = model[1][0]
    y = torch.relu(inner(first.bn2(first.conv2(torch.relu(first.bn1(first.conv1(y)))))) + y)
    y = torch.relu(gate(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(y)))))))
    expected = model[4](y.mean((2, 3)))
    torch.testing.assert_close(patched(x), expected, rtol=0, atol=1e-6)


def test_a_linear_bottleneck_of_another_class_is_a_peer_by_its_place() -> None:
    model = _net(Linear(16), Narrow(16, 24), Linear(24), out=24)
    assert _plain(model) == [("1.1", "_1_1_pw")]


@pytest.mark.parametrize(
    "model",
    [
        _net(Optional(16, 24, 2), Optional(24, 24, 2), out=24),  # no block has an add
        _net(Optional(16, 16), Narrow(16, 24), out=24),  # ends linearly, but its neighbours do not
        _net(Linear(16), nn.Sequential(conv(16, 24, 1), nn.BatchNorm2d(24)), out=24),  # bends nothing
        _net(Linear(16), Fusing(16, 16)),  # has an add that is no skip
        _net(Block(SPELLINGS["+"], 16, 24, 2), Block(SPELLINGS["+"], 24, 24), out=24),  # every block has an add
    ],
)
def test_what_is_no_plain_block(model: nn.Module) -> None:
    assert _plain(model) == []


def test_a_shared_block_is_one_site() -> None:
    block = Optional(16, 16)
    block.skip = False
    model = _net(Optional(16, 16), block, block)
    (site,) = [s for s in find_sites(model, kinds=KINDS, input_size=(3, 16, 16)) if s.kind == "plain"]
    assert (site.block, site.calls) == ("1.1", 2)
    x = torch.randn(2, 3, 16, 16)
    patched = inject(model, "se", kinds=KINDS, reduction=4, init="identity", input_size=(3, 16, 16))
    assert torch.equal(patched.eval()(x), model(x))


def test_placements_but_the_one_on_the_shortcut() -> None:
    with torch.device("meta"):
        model = torchvision.models.mobilenet_v2()
    for placement in ("pre", "post", "conv3x3"):
        plan = make_plan(model, "eca", kinds="plain", placement=placement)
        assert len(plan.insertions) == 7
    with pytest.raises(PlanError, match="needs a residual block, and this is a plain site"):
        make_plan(model, "eca", kinds="plain", placement="identity")


def test_sites_are_found_again_in_a_patched_model() -> None:
    model = torchvision.models.mobilenet_v2()
    once = inject(model, "eca", input_size=(3, 64, 64))
    twice = inject(once, "eca", kinds=KINDS, input_size=(3, 64, 64))
    assert len(once.injection.plan.insertions) == 10
    assert len(twice.injection.plan.insertions) == 17
