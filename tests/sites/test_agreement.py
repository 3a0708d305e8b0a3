"""Same code, same verdict (R9), and blocks whose norm and activation follow their add (R10), on small networks.

Each kind of network has the paper's reason beside it, and look-alikes that are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import find_sites
from attn_inject.sites.reasons import (
    BENDS_ELSEWHERE,
    FUSION,
    MULTI_RESOLUTION,
    ONE_OF_A_LOOP,
    OTHER_INPUTS,
    REPARAMETERISED,
    SPLIT_SCALE,
)

from ..toys import conv
from .graphs import Net, same_at_identity

SIZE = (3, 16, 16)
Pair = tuple[torch.Tensor, torch.Tensor]


class Seq(nn.Sequential):
    """A stem, blocks and a head."""

    def __init__(self, *blocks: nn.Module, width: int = 16) -> None:
        super().__init__(conv(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def _sites(model: nn.Module) -> list[tuple[str, str]]:
    """(block, gated value) of every residual site, and that the mixed rule finds none."""
    sites = find_sites(model, input_size=SIZE)
    assert all(site.kind == "residual" for site in sites)
    return [(site.block, site.node) for site in sites]


def _reasons(model: nn.Module) -> list[str]:
    return [skipped.reason for skipped in find_sites(model, input_size=SIZE).skipped]


def _two(i: int, o: int, s: int = 1) -> nn.Module:
    return nn.Sequential(conv(i, o, s=s), nn.ReLU(), conv(o, o), nn.ReLU())


class Bent(nn.Module):
    """SqueezeNext, GhostNet: the projection of a stage's first block has an activation, as the branch's end has."""

    def __init__(self, i: int, o: int, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = _two(i, o)
        self.shortcut = shortcut or (nn.Sequential(conv(i, o, 1), nn.ReLU()) if i != o else nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class BentToo(Bent):
    """The same sum in code of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def test_a_bent_projection_is_a_shortcut_where_its_brothers_have_one() -> None:
    """R9d."""
    model = Seq(Bent(16, 24), Bent(24, 24), Bent(24, 32), width=32)
    assert _sites(model) == [("1", "_1_body_3"), ("2", "_2_body_3"), ("3", "_3_body_3")]
    assert _reasons(model) == []
    same_at_identity(model, SIZE)


@pytest.mark.parametrize(
    "first",
    [
        lambda: Bent(16, 24),  # no brother is a site
        lambda: nn.Sequential(BentToo(16, 24), Bent(24, 24)),  # the brother is one in other code
        lambda: nn.Sequential(Bent(16, 24, _two(16, 24)), Bent(24, 24)),  # as many convolutions on either side
    ],
)
def test_two_bent_operands_are_a_fusion_still(first: Callable[[], nn.Module]) -> None:
    assert _reasons(Seq(first(), width=24)) == [FUSION]


class Add(nn.Module):
    """A sum as a module: it computes no branch, so that its code says nothing."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


def test_a_sum_that_is_given_both_operands_has_no_brothers() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = m.one(m.body(x), x)
        return m.two(m.first(x), m.second(x))

    net = Net(run, one=Add(), two=Add(), body=_two(16, 16), first=_two(16, 16), second=_two(16, 16))
    model = Seq(net)
    assert _sites(model) == [("1.one", "_1_body_3")]
    assert _reasons(model) == [FUSION]


class Coupling(nn.Module):
    """i-RevNet, RevNet: y1 = x1 + F(x2), and the halves change places. The papers call F a residual function."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _two(8, 8)

    def forward(self, halves: Pair) -> Pair:
        x1, x2 = halves
        return x2, x1 + self.body(x2)


class Halves(nn.Module):
    def __init__(self, *units: nn.Module) -> None:
        super().__init__()
        self.units = nn.Sequential(*units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.units(torch.chunk(x, 2, 1)), 1)


def test_every_coupling_of_a_reversible_network_is_a_block() -> None:
    """R9d: the first adds two slices of one split (R5), the second what seems a fusion; the branch is F in all."""
    model = Seq(Halves(*[Coupling() for _ in range(4)]))
    assert _sites(model) == [(f"1.units.{n}", f"_1_units_{n}_body_3") for n in range(4)]
    same_at_identity(model, SIZE)


class Octave(nn.Module):
    """Octave convolution: two streams that each block mixes; both have the block's shortcut (its Figure 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.hh, self.hl, self.lh, self.ll, self.h2, self.l2 = (conv(16, 16) for _ in range(6))

    def forward(self, streams: Pair) -> Pair:
        h, l = streams  # noqa: E741
        up = F.interpolate(self.lh(l), scale_factor=2.0)
        a, b = torch.relu(self.hh(h) + up), torch.relu(self.ll(l) + self.hl(F.avg_pool2d(h, 2)))
        return torch.relu(self.h2(a) + h), torch.relu(self.l2(b) + l)


class Streams(nn.Module):
    def __init__(self, *units: nn.Module) -> None:
        super().__init__()
        self.units = nn.Sequential(*units)
        self.start = conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, l = self.units((x, F.avg_pool2d(torch.relu(self.start(x)), 2)))  # noqa: E741
        return h + F.interpolate(l, scale_factor=2.0)


def test_both_streams_of_an_octave_network_have_the_blocks_shortcut() -> None:
    """R9d takes the later blocks, whose streams are mixed; R9c leaves what the first alone seemed to add within."""
    model = Seq(Streams(Octave(), Octave()))
    assert _sites(model) == [(f"1.units.{n}", f"_1_units_{n}_{stream}2") for n in range(2) for stream in "hl"]
    same_at_identity(model, SIZE)


class DecoderLevel(nn.Module):
    """Demucs: a level of a U-Net's decoder is given what comes from below, and the encoder's map that it adds."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.body = conv(16, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2) if up else conv(16, 16)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = x + skip
        return torch.relu(self.up(torch.relu(self.body(x))))


class Levels(nn.Module):
    """A U-Net whose skips are added, or, where nothing comes up, as many blocks in a row that end in the next one."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(conv(16, 16, s=2 if up else 1) for _ in range(3))
        self.middle = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))
        self.decoders = nn.ModuleList(DecoderLevel(up=up) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for layer in self.down:
            x = torch.relu(layer(x))
            skips.append(x)
        x = self.middle(x)
        for decoder in self.decoders:
            x = decoder(x, skips.pop())
        return x


def test_no_level_of_a_decoder_that_adds_what_it_is_given_is_a_block() -> None:
    """R9a: what the innermost is given does not come up, and is made from the skip alone."""
    assert _sites(Seq(Levels(up=True))) == []
    assert _reasons(Seq(Levels(up=True))) == [MULTI_RESOLUTION] * 3
    # On one resolution, each adds what is made from the skip.
    assert [block for block, _ in _sites(Seq(Levels(up=False)))] == [f"1.decoders.{n}" for n in range(3)]


class Upsampled(nn.Module):
    """BigGAN, guided diffusion: branch and shortcut come up by themselves, and a second input scales the branch."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.a, self.b, self.scale, self.both = conv(16, 16), conv(16, 16), nn.Linear(4, 16), both

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        y = F.interpolate(torch.relu(x) * self.scale(z)[..., None, None], scale_factor=2.0)
        shortcut = F.interpolate(x, scale_factor=2.0) if self.both else F.pad(x, (4, 4, 4, 4))
        return self.b(torch.relu(self.a(y))) + shortcut


class Conditional(nn.Module):
    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.first, self.last = Upsampled(both=both), conv(16, 16)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x, z))


def test_a_branch_of_two_inputs_may_come_up_where_its_shortcut_does() -> None:
    given = (torch.randn(2, 16, 8, 8), torch.randn(2, 4))
    assert [site.block for site in find_sites(Conditional(both=True), example_inputs=given)] == ["first"]
    assert list(find_sites(Conditional(both=False), example_inputs=given)) == []


class Hourglass(nn.Module):
    """Stacked hourglasses: what comes up is added to a skip branch; the innermost has no hourglass in it."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.skip, self.down = nn.Identity(), conv(16, 16)
        self.low = Hourglass(depth - 1) if depth else nn.Sequential(conv(16, 16), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = F.interpolate(self.low(torch.relu(self.down(F.max_pool2d(x, 2)))), scale_factor=2.0)
        return self.skip(x) + low


def test_an_hourglass_has_one_verdict_at_all_its_depths() -> None:
    """R9a: R6 sees block ends within the outer ones, and none within the innermost."""
    model = Seq(Hourglass(2))
    assert _sites(model) == []
    assert _reasons(model) == [MULTI_RESOLUTION] * 3


def test_a_block_that_looks_at_a_coarser_map_is_a_block_without_such_brothers() -> None:
    model = Seq(Hourglass(0), Hourglass(0))
    assert [block for block, _ in _sites(model)] == ["1", "2"]


class Decoder(nn.Module):
    """LinkNet: four equal adds in one loop, of which the last needs no upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(16, 16, s=s) for s in (1, 2, 2)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(16, 16, 2, 2), conv(16, 16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [x]
        for down in self.down:
            skips.append(torch.relu(down(skips[-1])))
        x = skips.pop()
        for up in self.up:
            x = torch.relu(up(x)) + skips.pop()
        return x


def test_the_adds_of_a_decoders_loop_have_one_verdict() -> None:
    """R9a: R6 does not depend on where the loop ends."""
    model = Seq(Decoder())
    assert _sites(model) == []
    assert _reasons(model) == [MULTI_RESOLUTION] * 3


class Loop(nn.Module):
    def __init__(self, run: Callable[[Loop, torch.Tensor], torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def _blocks(m: Loop, x: torch.Tensor) -> torch.Tensor:
    for layer in m.layers:
        x = x + layer(x)
    return x


def _poly(m: Loop, x: torch.Tensor) -> torch.Tensor:
    out = x
    for layer in m.layers:
        out = out + layer(x)
    return out


def _poly_powers(m: Loop, x: torch.Tensor) -> torch.Tensor:
    out = x
    for layer in m.layers:
        x = layer(x)
        out = out + x
    return out


@pytest.mark.parametrize("run", [_blocks, _poly, _poly_powers])
def test_a_loop_of_blocks(run: Callable[[Loop, torch.Tensor], torch.Tensor]) -> None:
    """PolyNet's x + F(x) + G(x) and x + F(x) + F(F(x)) have a branch in every term."""
    model = Seq(Loop(run, *[_two(16, 16) for _ in range(3)]))
    assert _sites(model) == [("1", f"_1_layers_{n}_3") for n in range(3)]
    same_at_identity(model, SIZE)


def _turns(m: Net, x: torch.Tensor) -> torch.Tensor:
    """Maps of several streams are summed one after the other, the first of them the input itself."""
    values = [x, m.a(x), m.b(torch.sigmoid(x)), m.c(torch.tanh(x))]
    out = values[0]
    for value in values[1:]:
        out = torch.relu(out + value)
    return out


def test_the_first_turn_of_a_loop_of_fusions_is_no_block() -> None:
    """R9b: x + a(x) alone would be one."""
    model = Seq(Net(_turns, a=_two(16, 16), b=_two(16, 16), c=_two(16, 16)))
    assert _sites(model) == []
    assert _reasons(model) == [ONE_OF_A_LOOP, FUSION, FUSION]


class Residual(nn.Module):
    """A skip add as a module, over whatever it is given."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Mixer(nn.Module):
    """A token mixer: no convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.flatten(2), 2).view_as(x) * x


def test_a_lone_site_stays_where_its_brothers_wrap_something_else() -> None:
    """R9e: the code says that there is a skip; what it skips is another module's."""
    model = Seq(Residual(Mixer()), Residual(_two(16, 16)), Residual(conv(16, 16)), Residual(nn.ReLU()))
    assert _sites(model) == [("2", "_2_body_3")]
    assert [reason.rpartition(": ")[2] for reason in _reasons(model)] == ["R4"] * 3
    same_at_identity(model, SIZE)


class Unbound(nn.Module):
    """Groups of channels, each with a convolution of its own, put together again by `stack`."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([_two(8, 8) for _ in range(2)])

    def groups(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [part(group) for part, group in zip(self.parts, x.unflatten(1, (2, 8)).unbind(1), strict=True)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.stack(self.groups(x), 1).flatten(1, 2)


class UnboundSums(Unbound):
    """Its look-alike: each group is added to the next one, as Res2Net does within a branch (R5)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.unflatten(1, (2, 8)).unbind(1)
        return torch.stack([first, second + self.parts[0](first)], 1).flatten(1, 2)


def test_groups_that_are_unbound_and_stacked_are_a_branch() -> None:
    model = Seq(Unbound(), Unbound())
    assert [block for block, _ in _sites(model)] == ["1", "2"]
    same_at_identity(model, SIZE)
    assert _sites(Seq(UnboundSums())) == []
    assert _reasons(Seq(UnboundSums())) == [SPLIT_SCALE]


class Esp(nn.Module):
    """ESPNet: reduce, dilated convolutions whose sums are hierarchical, concat, add; norm and activation come last."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.reduce = conv(16, 4, 1) if depth > 1 else nn.Identity()
        self.branches = nn.ModuleList([conv(4 if depth > 1 else 16, 4) for _ in range(4)])
        self.norm, self.act = nn.BatchNorm2d(16), nn.PReLU(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.reduce(x)
        parts = [self.branches[0](y)]
        for branch in list(self.branches)[1:]:
            parts.append(branch(y) + parts[-1] if len(parts) > 1 else branch(y))
        return self.act(self.norm(torch.cat(parts, 1) + x))


class Blaze(nn.Module):
    """BlazeFace: a separable convolution without an activation within; a pool and zeros fit the shortcut to it."""

    def __init__(self, width: int, out: int, stride: int = 1, fit: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(width, width, 3, stride, 1, groups=width), conv(width, out, 1))
        self.fit, self.zeros = fit or (nn.MaxPool2d(stride) if stride > 1 else nn.Identity()), out - width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fit(x)
        if self.zeros:
            y = F.pad(y, (0, 0, 0, 0, 0, self.zeros))
        return torch.relu(self.branch(x) + y)


class Rep(nn.Module):
    """RepVGG: each branch starts at the block's input, has one convolution at most, and ends at the add."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.small, self.same = conv(16, 16), conv(16, 16, 1), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.dense(x) + self.small(x) + self.same(x))


class Linear(nn.Module):
    """A sum that nothing bends before the next convolution: all of it is one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)) + x


def test_affine_branches_are_blocks_where_norm_and_activation_follow_the_add() -> None:
    """R10; the hierarchical sums within stay what they are."""
    model = Seq(Esp(), Esp())
    assert _sites(model) == [("1", "cat"), ("2", "cat_1")]
    assert [reason for reason in _reasons(model) if reason.endswith("R4")] == [REPARAMETERISED] * 4
    same_at_identity(model, SIZE)


def test_affine_branches_whose_brothers_fit_their_shortcut() -> None:
    """R10: a convolution on it would be another branch."""
    model = Seq(
        Blaze(16, 16), Blaze(16, 24), Blaze(24, 24), Blaze(24, 32, 2), Blaze(32, 32, fit=conv(32, 32, 1)), width=32
    )
    assert [block for block, _ in _sites(model)] == ["1", "2", "3", "4"]
    assert _reasons(model) == [REPARAMETERISED]
    same_at_identity(model, SIZE)


@pytest.mark.parametrize(
    "blocks",
    [
        lambda: [Esp()],  # it does not repeat
        lambda: [Blaze(16, 16), Blaze(16, 24), Blaze(24, 16)],
        lambda: [Rep(), Rep(), Rep()],
        lambda: [Esp(depth=1), Esp(depth=1)],  # single convolutions from the input to the add
        lambda: [Linear(), Linear()],
    ],
)
def test_re_parameterised_branches_stay_refused(blocks: Callable[[], Iterable[nn.Module]]) -> None:
    model = Seq(*blocks())
    assert _sites(model) == []
    assert set(_reasons(model)) <= {REPARAMETERISED, "stands inside another block's branch: M6"} | _CONCATS


_CONCATS = {"one part derives from another (feature reuse): M3", "the parts exchange values on their way (streams): M3"}


class Average(torch.autograd.Function):
    """Shake-Shake's weighing; here without the noise."""

    @staticmethod
    def forward(_context: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 0.5 * a + 0.5 * b

    @staticmethod
    def backward(_context: Any, grad: torch.Tensor) -> Any:
        return 0.5 * grad, 0.5 * grad


class Shaken(nn.Module):
    """Shake-Shake: x + a F(x) + (1 - a) G(x); a is one half in eval mode. One branch of two parts, so one gate."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = _two(16, 16), _two(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.f(x), self.g(x)
        return x + (Average.apply(a, b) if self.training else 0.5 * (a + b))


def test_shake_shake_has_one_gate_on_what_both_modes_add() -> None:
    """Before the half the gate would see twice what it was trained on."""
    model = Seq(Shaken(), Shaken())
    assert _sites(model) == [("1", "mul"), ("2", "mul_1")]
    assert _reasons(model) == [FUSION] * 2
    same_at_identity(model, SIZE)


class Level(nn.Module):
    """RoR: a skip over a whole stage, "the residual mapping of residual mapping": a block like those it holds."""

    def __init__(self, *units: nn.Module) -> None:
        super().__init__()
        self.units = nn.Sequential(*units)
        self.shortcut = conv(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.units(x) + self.shortcut(x))


def test_a_level_skip_is_a_block_of_blocks() -> None:
    model = Seq(Level(Bent(16, 16), Bent(16, 16)))
    assert [block for block, _ in _sites(model)] == ["1.units.0", "1.units.1", "1"]
    same_at_identity(model, SIZE)


class Parallel(Level):
    """Its look-alike: the way beside the units bends too, so that none of both is the skip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.units(x) + torch.relu(self.shortcut(x)))


def test_a_bent_way_around_a_stage_is_no_level_skip() -> None:
    model = Seq(Parallel(Bent(16, 16), Bent(16, 16)))
    assert [block for block, _ in _sites(model)] == ["1.units.0", "1.units.1"]
    assert _reasons(model) == [FUSION]


class InResNet(nn.Module):
    """ResNet in ResNet: two streams of one convolution each, which cross; what follows the sums bends them."""

    def __init__(self) -> None:
        super().__init__()
        self.rr, self.rt, self.tr, self.tt = (conv(16, 16) for _ in range(4))

    def forward(self, streams: Pair) -> Pair:
        r, t = streams
        return torch.relu(self.rr(r) + r + self.tr(t)), torch.relu(self.tt(t) + self.rt(r))


class Joined(Streams):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.units((x, torch.relu(self.start(x)))), 1)


def test_two_streams_of_single_convolutions_hold_no_blocks() -> None:
    """A layer of RiR sums three convolutions and an input, all affine, and two streams are no branch and shortcut."""
    model = Seq(Joined(InResNet(), InResNet(), InResNet()), width=32)
    assert _sites(model) == []
    assert set(_reasons(model)) <= {BENDS_ELSEWHERE, FUSION, REPARAMETERISED, OTHER_INPUTS, *_CONCATS}


class DenseSums(nn.Module):
    """Sums in the place of DenseNet's concats: y3 = f3(x + y1 + y2). Unrolled, that is a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_two(16, 16) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x
        for layer in self.layers:
            total = total + layer(total)
        return total


class DenseSumsOfSome(DenseSums):
    """Each layer reads the one before it, and only the end sums them: a fusion of features, with one branch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.layers[0](x)
        b = self.layers[1](a)
        c = self.layers[2](b)
        return torch.relu(a + b) + torch.relu(b + c)


def test_dense_sums() -> None:
    model = Seq(DenseSums())
    assert _sites(model) == [("1", f"_1_layers_{n}_3") for n in range(3)]
    assert _reasons(Seq(DenseSumsOfSome()))[-1] == FUSION
