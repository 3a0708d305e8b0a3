"""Plain sites: blocks without a skip add, in networks whose other blocks have one."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import PlanError, find_sites, inject, make_plan
from attn_inject.types import Kind

from ..toys import SPELLINGS, Block, conv
from .graphs import Net, analysed

KINDS: tuple[Kind, ...] = ("residual", "plain")


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
    kinds = [site.kind for site in find_sites(model, kinds=KINDS)]
    assert (len(kinds), kinds.count("residual")) == (blocks, with_add)


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


def _analysed(*blocks: nn.Module) -> list[tuple[str, str, str | None, str | None]]:
    """(block, gated value, fork, branch) of every plain site behind a stem."""
    graph = analysed(nn.Sequential(conv(3, 16), *blocks), (2, 3, 8, 8), kinds=KINDS)
    sites = [site for calls in graph.anatomies.values() for site in calls if site.kind == "plain"]
    return [
        (s.block, s.gated.name, s.fork.name if s.fork else None, s.branch.name if s.branch else None) for s in sites
    ]


class Ends(nn.Module):
    """The same `forward` for blocks with an add and without; `last` is what comes after."""

    def __init__(self, skip: bool, last: nn.Module | None = None, o: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.skip = conv(16, 16), conv(16, o), skip
        self.last = last or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(torch.relu(self.a(x)))
        return self.last(y + x if self.skip else y)


class Other(Ends):
    """Code of its own: a peer by its place only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.b(torch.relu(self.a(x))))


class Twice(nn.Module):
    """Two values come out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.b(torch.relu(self.a(x)))
        return y, y


def _own_forward(run: Callable[[Ends, torch.Tensor], torch.Tensor], **options: Any) -> nn.Module:
    """A block of the class of its peers whose `forward` is its own."""
    block = Ends(False, **options)
    block.forward = types.MethodType(run, block)  # type: ignore[method-assign]
    return block


def _without_convolutions() -> nn.Module:
    block = Ends(False)
    block.a, block.b = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    return block


PEERS: dict[str, tuple[Callable[[], list[nn.Module]], list[tuple[str, str, str | None, str | None]]]] = {
    # rule and case -> blocks behind a stem, (block, gated, fork, branch) of the plain sites
    "P1 one call that convolves and bends": (lambda: [Ends(True), Ends(False)], [("2", "_2_b", "_1_last", "_2_last")]),
    "P1 before its peers": (lambda: [Ends(False), Ends(True)], [("1", "_1_b", "_0", "_1_last")]),
    "P1 two of them": (
        lambda: [Ends(True), Ends(False), Ends(False)],
        [("2", "_2_b", "_1_last", "_2_last"), ("3", "_3_b", "_2_last", "_3_last")],
    ),
    "P2 the same code in another depth": (
        lambda: [nn.Sequential(Ends(True)), Ends(False)], [("2", "_2_b", "_1_0_last", "_2_last")],
    ),
    "P2 other code in the same place": (lambda: [Ends(True), Other(False)], [("2", "_2_b", "_1_last", "_2_last")]),
    "P2 other code in the same place of the same home": (
        lambda: [nn.Sequential(Ends(True), Other(False))], [("1.1", "_1_1_b", "_1_0_last", "_1_1_last")],
    ),
    "P2 two homes": (
        lambda: [nn.Sequential(Ends(True)), nn.Sequential(Ends(True), Other(False))],
        [("2.1", "_2_1_b", "_2_0_last", "_2_1_last")],
    ),
    "P3 before the activation": (
        lambda: [Ends(True, nn.ReLU()), Ends(False, nn.ReLU())], [("2", "_2_b", "_1_last", "_2_b")],
    ),
    "P3 before the drop": (
        lambda: [Ends(True, nn.Dropout()), Ends(False, nn.Dropout())], [("2", "_2_b", "_1_last", "_2_last")],
    ),
    "P3 a peer with its activation before the add": (
        lambda: [Ends(True), Ends(False, nn.ReLU())], [("2", "_2_last", "_1_last", "_2_last")],
    ),
    "P3 a convolution after the add stays": (
        lambda: [Ends(True, nn.ReLU()), Ends(False, conv(16, 16))], [("2", "_2_last", "_1_last", "_2_last")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PEERS)
def test_peers(case: str) -> None:
    make, expected = PEERS[case]
    assert _analysed(*make()) == expected


NO_PEERS: dict[str, Callable[[], list[nn.Module]]] = {
    "P1 no block has an add": lambda: [Ends(False), Ends(False)],
    "P1 no convolution": lambda: [Ends(True), _without_convolutions()],
    "P1 nothing nonlinear": lambda: [Ends(True), _own_forward(lambda m, x: m.b(m.a(x)))],
    "P1 no map comes out": lambda: [Ends(True), Other(False, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))],
    "P1 several maps come out": lambda: [Ends(True), Twice()],
    "P1 holds a block": lambda: [
        Ends(True), _own_forward(lambda m, x: m.last(m.b(torch.relu(m.a(x)))), last=Ends(True)),
    ],
    "P1 stands in a block": lambda: [
        nn.Sequential(Ends(True)),
        Net(lambda m, x: x + m.one(x), one=Other(False)),
    ],
    "P2 other code, and the peers end in an activation": lambda: [Ends(True, nn.ReLU()), Other(False)],
    "P2 other code that does not end linearly": lambda: [Ends(True), Other(False, nn.ReLU())],
    "P2 other code in another depth": lambda: [
        nn.Sequential(Ends(True)), nn.Sequential(Ends(True)), Other(False),
    ],
    "P2 other code in another home": lambda: [
        nn.Sequential(Ends(True), Ends(True)), nn.Sequential(Other(False)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", NO_PEERS)
def test_no_peers(case: str) -> None:
    assert _analysed(*NO_PEERS[case]()) == []


def test_calls_of_a_shared_block_are_told_apart() -> None:
    block = Ends(False)
    assert _analysed(Ends(True), block, block) == [
        ("2", "_2_b", "_1_last", "_2_last"),
        ("2", "_2_b_1", "_2_last", "_2_last_1"),
    ]
