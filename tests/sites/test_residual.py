"""The residual rule, clause by clause, on toy nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import attach, find_sites, inject
from attn_inject.sites.residual import cells_of

from .. import toys
from .graphs import Net, Pair, analysed, gated, read_on, reasons, same_at_identity


@pytest.mark.parametrize("spelling", toys.SPELLINGS)
@pytest.mark.parametrize(("width", "stride"), [(16, 1), (24, 1), (16, 2)], ids=["identity", "wider", "strided"])
def test_every_spelling_of_the_add(spelling: str, width: int, stride: int) -> None:
    model = toys.Toy(toys.Block(toys.SPELLINGS[spelling], 16, width, stride), out=width)
    (site,) = find_sites(model, input_size=model.size)
    assert (site.kind, site.block, site.channels, site.node) == ("residual", "body", width, "body_bn2")
    assert site.size == (16 // stride,) * 2
    same_at_identity(model, model.size)


def test_float_functional_add() -> None:
    model = toys.Toy(toys.Quantizable())
    (site,) = find_sites(model, input_size=model.size)
    assert (site.block, site.node) == ("body", "body_bn2")


NETS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    # net -> (maker, the gated value's producer, its channels)
    "pre-activation": (toys.preactivation, "body_b", 24),
    "own pre-activation": (toys.own_preactivation, "body_b", 16),
    "layer scale": (toys.layer_scale, "body_b", 16),
    "partial add": (toys.partial_add, "body_b", 24),
    "partial add in place": (toys.partial_add_in_place, "body_b", 24),
    "channels last": (toys.channels_last, "body_fc2", 16),
}


@pytest.mark.parametrize("net", NETS)
def test_gated_value(net: str) -> None:
    make, producer, channels = NETS[net]
    model = make()
    sites = find_sites(model, input_size=(3, 16, 16))
    assert [(s.kind, s.block, s.node, s.channels) for s in sites] == [("residual", "body", producer, channels)]
    assert sites[0].layout == ("channels_last" if net == "channels last" else "channels_first")
    assert sites[0].size == (16, 16)
    same_at_identity(model, (3, 16, 16))


SHORTCUTS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "without a history": lambda _, x: x.data,
    "weighted in its type": lambda m, x: x * m.weights.to(x)[0],
    "weighted in its shape": lambda m, x: x * m.weights.view(1, 16, 1, 1).expand_as(x),
}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_what_is_only_like_a_map_has_none_of_its_numbers(shortcut: str) -> None:
    """`weights.to(x)` asks `x` for its type: no product of two maps, and no shortcut that bends."""
    layers = {"a": toys.conv(16, 16), "b": toys.conv(16, 16), "weights": torch.rand(16)}
    net = Net(lambda m, x: read_on(SHORTCUTS[shortcut](m, x) + m.b(torch.relu(m.a(x)))), **layers)
    (site,) = find_sites(net, input_size=(16, 16, 16))
    assert (site.kind, site.node, site.channels) == ("residual", "b", 16)
    same_at_identity(net, (16, 16, 16))


def test_a_product_of_two_maps_is_one_in_another_type_too() -> None:
    net = Net(
        lambda m, x: read_on(x * x.mean((2, 3), keepdim=True).to(x) + m.b(torch.relu(m.a(x)))),
        a=toys.conv(16, 16),
        b=toys.conv(16, 16),
    )
    assert list(find_sites(net, input_size=(16, 16, 16))) == []


LOOKED_UP: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "by a layer": lambda m, x: m.codes(x.argmax(1)).permute(0, 3, 1, 2),
    "by a function": lambda m, x: F.embedding(x.argmin(1), m.codes.weight).movedim(-1, 1),
    "by indexing": lambda m, x: m.codes.weight[x.argmax(1)].permute(0, 3, 1, 2),
    "one hot": lambda m, x: (F.one_hot(x.argmax(1), 16).float() @ m.codes.weight).permute(0, 3, 1, 2),
    "straight through": lambda m, x: x + (m.codes(x.argmax(1)).permute(0, 3, 1, 2) - x).detach(),
    "where it is largest": lambda m, x: torch.where(x > x.mean(), 1.0, 0.0).expand_as(x),
}


@pytest.mark.parametrize("look_up", LOOKED_UP)
def test_the_flow_goes_on_behind_numbers_that_it_decides(look_up: str) -> None:
    """A quantised map is made of integers that come from the input, and what follows it are blocks like others."""
    before, after = (toys.Block(toys.SPELLINGS["+"]) for _ in range(2))
    net = Net(
        lambda m, x: m.after(LOOKED_UP[look_up](m, m.before(x))), before=before, after=after, codes=nn.Embedding(16, 16)
    )
    size = (16, 16, 16)
    sites = find_sites(net, input_size=size)
    if look_up == "straight through":
        assert [site.block for site in sites] == ["before", "after"]
        same_at_identity(net, size)
        return
    # Integers hand no gradient back, so that attention before them would never learn.
    assert [site.block for site in sites] == ["after"]
    assert [skipped.block for skipped in sites.skipped if skipped.reason.endswith(": R15")] == ["before"]
    for put_in in (inject, attach):
        patched: Any = put_in(net, "se", input_size=size)
        (note,) = patched.injection.plan.notes
        assert note == "left out, since no gradient comes back to them (no_grad, detach or indices): before"
    x = torch.randn(2, *size)
    patched = inject(net.eval(), "se", input_size=size, init="identity")
    assert torch.equal(patched.eval()(x), net(x))


def test_parts_of_a_chunk_can_be_iterated_over() -> None:
    model = toys.unpacked_parts()
    (site,) = find_sites(model, input_size=(3, 16, 16))
    assert (site.node, site.channels) == ("body_c", 8)
    same_at_identity(model, (3, 16, 16))


def test_shared_block_is_one_site_called_twice() -> None:
    model = toys.shared_block()
    (site,) = find_sites(model, input_size=(3, 16, 16))
    assert (site.block, site.calls) == ("body.block", 2)
    same_at_identity(model, (3, 16, 16))


@pytest.mark.parametrize("net", toys.REFUSED)
def test_look_alikes_are_refused_with_their_reason(net: str) -> None:
    words, make = toys.REFUSED[net]
    sites = find_sites(make(), input_size=(3, 16, 16))
    assert list(sites) == []
    assert any(words in skip.reason for skip in sites.skipped), sites.skipped


def test_one_dimensional_and_three_dimensional_blocks() -> None:
    for d in (1, 3):

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.a, self.b = (toys.conv(i, 8, d=d) for i in (3, 8, 8))  # noqa: B023

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.stem(x)
                return x + self.b(torch.relu(self.a(x)))

        model, size = Net(), (3,) + (8,) * d
        (site,) = find_sites(model, input_size=size)
        assert (site.channels, site.size) == (8, (8,) * d)
        same_at_identity(model, size)


def test_model_is_left_as_it_was() -> None:
    model = toys.preactivation().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    attributes = {path: sorted(vars(m)) for path, m in model.named_modules()}
    state = torch.get_rng_state()
    find_sites(model, input_size=(3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
    assert {path: sorted(vars(m)) for path, m in model.named_modules()} == attributes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# Clause by clause: nets that are taken (the gated value) and look-alikes that are not (the reason), on (2, 16, 8, 8).
def _branch(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.b(torch.relu(m.a(x)))


def _layers(**others: nn.Module | torch.Tensor) -> dict[str, nn.Module | torch.Tensor]:
    return {"a": toys.conv(16, 16), "b": toys.conv(16, 16), **others}


def _down_and_up(m: Net, x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(m.b(torch.relu(m.down(x))), scale_factor=2.0)


def _levels_of_one_size(m: Net, x: torch.Tensor) -> torch.Tensor:
    top = m.q(_branch(m, x))
    return torch.cat([m.p(x) + F.interpolate(top, size=(8, 8)), top], 0)


def _looked_at_twice(m: Net, x: torch.Tensor) -> torch.Tensor:
    coarse = m.b(torch.relu(m.down(x)))
    return torch.cat([x + F.interpolate(coarse, scale_factor=2.0), F.interpolate(coarse, size=(8, 8))], 2)


def _block_on_the_way(m: Net, x: torch.Tensor) -> torch.Tensor:
    coarse = m.down(x)
    return x + F.interpolate(coarse + _branch(m, coarse), scale_factor=2.0)


def _preactivated(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.project(torch.relu(m.n(x))) + m.b(torch.relu(m.a(torch.sigmoid(x))))


def _in_attention_heads(m: Net, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(m.a(x))
    mixed = y @ y.transpose(2, 3)
    return mixed + torch.relu(m.b(mixed) @ mixed)


def _cell(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([_branch(m, x) + x, m.d(torch.relu(m.c(x))) + x], 1)


def _sums_in_a_row(m: Net, x: torch.Tensor) -> torch.Tensor:
    first = _branch(m, x) + x
    return torch.cat([first, m.d(torch.relu(m.c(first))) + first], 1)


def _one_sum(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([_branch(m, x) + x, x], 1)


def _one_dimensional(m: Net, x: torch.Tensor) -> torch.Tensor:
    return x + m.b1(torch.relu(m.a1(x)))


class OwnConvolution(nn.Module):
    """Convolves by code that no trace looks into, as CondConv does with the kernels it mixes."""

    traced_whole = True

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(16, 16 * 9) / 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.kernel.view(16, 16, 3, 3), padding=1)


TAKEN: dict[str, tuple[str, Callable[[Net, torch.Tensor], torch.Tensor], dict[str, Any]]] = {
    # rule and case -> the gated value of the last residual site, the net
    "R1 maps of equal shapes": ("b", lambda m, x: x + _branch(m, x), {}),
    "R1 channels told by the shortcut": (
        "reshape",
        lambda m, x: m.c(x) + (m.b(torch.relu(m.a(x))) @ x).reshape(2, 16, 8, 8),
        {"c": toys.conv(16, 16)},
    ),
    "R2 the fork is an operand": ("b", lambda m, x: (y := m.n(x)) + _branch(m, y), {"n": nn.BatchNorm2d(16)}),
    "R2 the fork is on the shortcut's way, not alone": (
        "b",
        lambda m, x: (y := m.n(torch.relu(x))) + m.b(torch.relu(m.a(y) + x)),
        {"n": nn.BatchNorm2d(16)},
    ),
    "R3 a projected shortcut": ("b", lambda m, x: m.p(x) + _branch(m, x), {"p": toys.conv(16, 16, 1)}),
    "R3 an activation of the fork itself": (
        "b",
        _preactivated,
        {"n": nn.BatchNorm2d(16), "project": toys.conv(16, 16, 1)},
    ),
    "R4 nonlinear after its convolution": ("relu", lambda m, x: x + torch.relu(m.a(x)), {}),
    "R4 one position, channels last": (
        "permute_1",
        lambda m, x: (y := x.mean((2, 3), keepdim=True)).permute(0, 2, 3, 1) + _branch(m, y).permute(0, 2, 3, 1),
        {},
    ),
    "R4 a gate behind a convolution of positions": (
        "mul",
        lambda m, x: x + (y := m.a(x)) * torch.sigmoid(m.b(y.mean((2, 3), keepdim=True))),
        {},
    ),
    "R4 a gate behind a layer that convolves by its own code": (
        "mul",
        lambda m, x: x + (y := m.own(x)) * torch.sigmoid(m.b(y.mean((2, 3), keepdim=True))),
        {"own": OwnConvolution()},
    ),
    "R5 the same slice": (
        "b",
        lambda m, x: (y := x[:, :8]) + m.b(torch.relu(m.a(y))),
        {"a": toys.conv(8, 8), "b": toys.conv(8, 8)},
    ),
    "R5 a slice and the whole": (
        "b",
        lambda m, x: x[:, :8] + m.b(torch.relu(m.a(x))),
        {"a": toys.conv(16, 8), "b": toys.conv(8, 8)},
    ),
    "R5 a slice after a convolution": (
        "b",
        lambda m, x: m.p(x)[:, :8] + m.b(torch.relu(m.a(x[:, 8:]))),
        {"p": toys.conv(16, 16), "a": toys.conv(8, 8), "b": toys.conv(8, 8)},
    ),
    "R6 a block that looks at a coarser map": (
        "interpolate",
        lambda m, x: x + _down_and_up(m, x),
        {"down": toys.conv(16, 16, s=2)},
    ),
    "R6 a look inside one child": (
        "interpolate",
        lambda m, x: m.p(x) + m.child(x),
        {"p": toys.conv(16, 16, 1), "child": Net(_down_and_up, down=toys.conv(16, 16, s=2), b=toys.conv(16, 16))},
    ),
    "R6 upsampling to the same size": (
        "interpolate",
        lambda m, x: m.p(x) + F.interpolate(_branch(m, x), size=(8, 8)),
        {"p": toys.conv(16, 16, 1)},
    ),
    "R6 both come up": (
        "interpolate_1",
        lambda m, x: F.interpolate(m.p(x), scale_factor=2.0) + F.interpolate(_branch(m, x), scale_factor=2.0),
        {"p": toys.conv(16, 16, 1)},
    ),
    "R7 sums in a row": ("d", _sums_in_a_row, {"c": toys.conv(16, 16), "d": toys.conv(16, 16)}),
    "R7 one sum in a concat": ("b", _one_sum, {}),
    "R8 past a gain": ("b", lambda m, x: x + 0.5 * _branch(m, x), {}),
    "R2 a running sum": (
        "d",
        lambda m, x: x + _branch(m, x) + m.d(torch.relu(m.c(x))),
        {"c": toys.conv(16, 16), "d": toys.conv(16, 16)},
    ),
    "R8 not past a mean": (
        "mul",
        lambda m, x: x + F.dropout(0.5 * (_branch(m, x) + torch.relu(m.c(x))), 0.1, m.training),
        {"c": toys.conv(16, 16)},
    ),
    "R8 past a learned scale of a sum": (
        "add",
        lambda m, x: x + m.g * (_branch(m, x) + torch.relu(m.c(x))),
        {"c": toys.conv(16, 16), "g": torch.ones(1, 16, 1, 1)},
    ),
    "R8 past a learned scale and a drop": (
        "b",
        lambda m, x: x + F.dropout(m.g * _branch(m, x), 0.1, m.training),
        {"g": torch.ones(1, 16, 1, 1)},
    ),
    "R8 past an identity and a drop module": (
        "b",
        lambda m, x: x + m.i(m.drop(_branch(m, x))),
        {"i": nn.Identity(), "drop": nn.Dropout(0.1)},
    ),
    "R8 past a move, no gain before it": (
        "permute_1",
        lambda m, x: x.permute(0, 2, 3, 1) + _branch(m, x).permute(0, 2, 3, 1),
        {},
    ),
    "R8 past a move to a gain": (
        "b",
        lambda m, x: x.transpose(2, 3) + (2.0 * _branch(m, x)).transpose(2, 3),
        {},
    ),
    "R8 before the slice": (
        "b",
        lambda m, x: x + m.b(torch.relu(m.a(x)))[:, :16],
        {"b": toys.conv(16, 24)},
    ),
    "R8 an item of a chunk stays": (
        "getitem",
        lambda m, x: x + m.b(torch.relu(m.a(x))).chunk(2, 1)[0],
        {"b": toys.conv(16, 32)},
    ),
    "R11 a mask of drawn numbers": (
        "b",
        lambda m, x: m.p(x) + _branch(m, x) * (torch.rand_like(x) < 0.9) / 0.9,
        {"p": toys.conv(16, 16, 1)},
    ),
    "R11 noise within a branch": (
        "b",
        lambda m, x: x + m.b(torch.relu(m.a(x)) * torch.randn_like(x)),
        {},
    ),
    "R11 one drawn number for each map": (
        "b",
        lambda m, x: x + _branch(m, x) * torch.randn(2, 16, 1, 1),
        {},
    ),
    "R8 not past a norm": ("n", lambda m, x: x + m.n(2.0 * _branch(m, x)), {"n": nn.BatchNorm2d(16)}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case: str) -> None:
    node, run, others = TAKEN[case]
    found = gated(analysed(Net(run, **_layers(**others))))
    assert [name for kind, name in found if kind == "residual"][-1:] == [node]


LOOK_ALIKES: dict[str, tuple[list[str], Callable[[Net, torch.Tensor], Any], dict[str, Any]]] = {
    # rule and case -> the reasons of all adds that are no sites, the net
    "R1 a parameter": (
        ["adds a parameter or a constant (position embedding, bias): R1"],
        lambda m, x: m.position + _branch(m, x),
        {"position": torch.ones(2, 16, 8, 8)},
    ),
    "R1 a number": (
        ["adds a parameter or a constant (position embedding, bias): R1"],
        lambda m, x: _branch(m, x) + 3,
        {},
    ),
    "R1 a value and itself": (["adds a value to itself: R1"], lambda m, x: (y := _branch(m, x)) + y, {}),
    "R1 three at once": (
        ["adds 3 maps at once, not two: R1"],
        lambda m, x: torch.stack([x, _branch(m, x), x.relu()]).mean(0),
        {},
    ),
    "R1 ranks": (["adds tensors of different ranks, 4 and 3: R1"], lambda m, x: x + _branch(m, x).mean(0), {}),
    "R1 vectors": (
        ["adds no feature maps, but values of rank 2: R1"],
        lambda m, x: x.mean((2, 3)) + _branch(m, x).mean((2, 3)),
        {},
    ),
    "R1 broadcast": (
        ["adds a broadcast value, (16, 8, 8) and (16, 1, 1): R1"],
        lambda m, x: x + _branch(m, x).mean((2, 3), keepdim=True),
        {},
    ),
    "R1 unknown channels": (
        ["the channel axis of the branch cannot be told (attention heads, tokens, steps of time, no batch): R1"],
        _in_attention_heads,
        {},
    ),
    "R1 unknown channels before a slice": (
        [
            "the channel axis of the branch cannot be told (attention heads, tokens, steps of time, no batch): R1",
            "does not join along the channel axis: M1",
        ],
        lambda m, x: x + torch.cat([z := torch.matmul(y := _branch(m, x), y), z], 1)[:, :16],
        {},
    ),
    "R1 tokens": (
        ["adds token sequences (rank 3 among maps of a higher rank): R1"],
        lambda m, x: x.flatten(2) + _branch(m, x).flatten(2),
        {},
    ),
    "R3 a bent shortcut": (
        ["both operands are nonlinear in their fork (a fusion): R4"],
        lambda m, x: torch.relu(m.p(x)) + _branch(m, x),
        {"p": toys.conv(16, 16, 1)},
    ),
    "R3 two convolutions on a pre-activated shortcut": (
        ["both operands are nonlinear in their fork (a fusion): R4"],
        lambda m, x: m.q(m.p(torch.relu(x))) + _branch(m, torch.sigmoid(x)),
        {"p": toys.conv(16, 16, 1), "q": toys.conv(16, 16, 1)},
    ),
    "R3 a pre-activated shortcut without a projection": (
        ["both operands are nonlinear in their fork (a fusion): R4"],
        lambda m, x: torch.relu(x) + _branch(m, torch.sigmoid(x)),
        {},
    ),
    "R3 a branch that bends only before its convolution": (
        ["both operands are nonlinear in their fork (a fusion): R4"],
        lambda m, x: m.a(torch.relu(x)) + m.b(torch.sigmoid(x)),
        {},
    ),
    "R3 a pre-activated shortcut of two values": (
        ["both operands are nonlinear in their fork (a fusion): R4"],
        lambda m, x: m.p(torch.relu(x) * x) + _branch(m, torch.sigmoid(x)),
        {"p": toys.conv(16, 16, 1)},
    ),
    "R4 both affine": (
        ["both operands are affine in their fork (re-parameterised branches): R4"],
        lambda m, x: m.a(x) + m.b(x),
        {},
    ),
    "R4 no convolution": (
        ["no convolution in the branch (a token mixer or a plain product): R4"],
        lambda m, x: x + torch.relu(x * 2),
        {},
    ),
    "R4 a convolution of pooled values only": (
        ["no convolution in the branch (a token mixer or a plain product): R4"],
        lambda m, x: x + x * torch.sigmoid(m.b(torch.relu(m.a(x.mean((2, 3), keepdim=True))))),
        {},
    ),
    "R4 a convolution of pooled values only, after the fork": (
        ["no convolution in the branch (a token mixer or a plain product): R4"],
        lambda m, x: (y := m.p(x)) + y * torch.sigmoid(m.b(F.adaptive_avg_pool2d(y, 1))),
        {"p": toys.conv(16, 16, 1)},
    ),
    "R4 no convolution, tokens": (
        ["no convolution in the branch (a token sequence): R4"],
        lambda m, x: (y := m.a(x).flatten(2)) + torch.relu(y),
        {},
    ),
    "R5 two slices": (
        ["adds two different slices of one split (split-scale): R5"],
        lambda m, x: x[:, :8] + m.b(torch.relu(m.a(x[:, 8:]))),
        {"a": toys.conv(8, 8), "b": toys.conv(8, 8)},
    ),
    "R6 a projection and a coarser map": (
        ["adds maps of several resolutions (multi-resolution fusion): R6"],
        lambda m, x: m.p(x) + _down_and_up(m, x),
        {"p": toys.conv(16, 16, 1), "down": toys.conv(16, 16, s=2)},
    ),
    "R6 a value that is read elsewhere": (
        ["adds maps of several resolutions (multi-resolution fusion): R6", "does not join along the channel axis: M1"],
        _looked_at_twice,
        {"down": toys.conv(16, 16, s=2)},
    ),
    "R6 a level of a pyramid of one size": (
        ["adds maps of several resolutions (multi-resolution fusion): R6", "does not join along the channel axis: M1"],
        _levels_of_one_size,
        {"p": toys.conv(16, 16, 1), "q": toys.conv(16, 16, 1)},
    ),
    "R6 a block end on the way": (
        ["adds maps of several resolutions (multi-resolution fusion): R6"],
        _block_on_the_way,
        {"down": toys.conv(16, 16, s=2)},
    ),
    "R6 inside two children": (
        ["adds maps of several resolutions (multi-resolution fusion): R6"],
        lambda m, x: m.p(x) + m.up(torch.relu(m.down(x))),
        {"p": toys.conv(16, 16, 1), "down": toys.conv(16, 16, s=2), "up": nn.ConvTranspose2d(16, 16, 2, 2)},
    ),
    "R11 a sample of a VAE": (
        ["adds drawn numbers, scaled (a sample around the other operand): R11"],
        lambda m, x: m.a(x) + torch.exp(0.5 * m.b(x)) * torch.randn_like(m.a(x)),
        {},
    ),
    "R11 drawn in place, scaled once more": (
        ["adds drawn numbers, scaled (a sample around the other operand): R11"],
        lambda m, x: (y := torch.relu(m.b(x)).sqrt()).new(y.size()).normal_().mul(y).mul(0.1).add_(m.a(x)),
        {},
    ),
    "R11 drawn and moved": (
        ["adds drawn numbers, scaled (a sample around the other operand): R11"],
        lambda m, x: m.a(x) + (0.5 * torch.randn(2, 8, 8, 16)).permute(0, 3, 1, 2) * torch.exp(m.b(x)),
        {},
    ),
    "R7 two sums side by side": (
        ["a part of a concat of sums (cell combination): R7"] * 2,
        _cell,
        {"c": toys.conv(16, 16), "d": toys.conv(16, 16)},
    ),
}


@pytest.mark.parametrize("case", LOOK_ALIKES)
def test_look_alikes(case: str) -> None:
    expected, run, others = LOOK_ALIKES[case]
    graph = analysed(Net(lambda m, x: read_on(run(m, x)), **_layers(**others)))
    assert reasons(graph) == expected


def test_two_inputs_are_no_block() -> None:
    """R2; and a branch of one of them that adds it is."""
    graph = analysed(Pair(lambda m, x, y: y + _branch(m, x), **_layers()), *[(2, 16, 8, 8)] * 2)
    assert reasons(graph) == ["the operands come from different inputs: R2"]
    graph = analysed(Pair(lambda m, x, y: y + _branch(m, x + y), **_layers()), *[(2, 16, 8, 8)] * 2)
    assert gated(graph) == [("residual", "b")]
    assert reasons(graph) == ["the operands come from different inputs: R2"]


def test_networks_of_sequences_have_blocks() -> None:
    """R1: rank 3 is a map where the branch's convolutions are one-dimensional."""
    graph = analysed(Net(_one_dimensional, a1=toys.conv(16, 16, d=1), b1=toys.conv(16, 16, d=1)), (2, 16, 8))
    assert gated(graph) == [("residual", "b1")]


def test_nodes_of_a_site() -> None:
    graph = analysed(Net(lambda m, x: m.p(x) + 0.5 * _branch(m, x), **_layers(p=toys.conv(16, 16, 1))))
    ((site,),) = graph.anatomies.values()
    nodes = (site.fork, site.shortcut, site.branch, site.gated, site.join)
    assert [node and node.name for node in nodes] == ["x", "p", "mul", "b", "add"]
    assert (site.kind, site.channel_axis, site.block, site.call) == ("residual", 1, "", 0)


def test_the_sums_of_a_cell_and_of_its_child_are_told_apart() -> None:
    """R7 asks for sums and a concat of one call of one block."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([m.first(x), m.second(x)], 1)

    first, second = (Net(lambda m, x: x + _branch(m, x), **_layers()) for _ in range(2))
    graph = analysed(Net(run, first=first, second=second))
    assert gated(graph) == [("residual", "first_b"), ("residual", "second_b")]
    shared = analysed(Net(run, first=first, second=first))
    assert gated(shared) == [("residual", "first_b"), ("residual", "first_b_1")]


def test_cells_are_named_by_their_path() -> None:
    cell = {"c": toys.conv(16, 16), "d": toys.conv(16, 16)}
    inner = analysed(Net(lambda m, x: m.cell(x), cell=Net(_cell, **_layers(**cell))))
    assert cells_of(inner.refusals) == {"cell"}
    # A cell that is the whole model names nothing to be within.
    assert cells_of(analysed(Net(_cell, **_layers(**cell))).refusals) == set()


def test_the_axis_is_the_branchs_own_where_it_is_known() -> None:
    """As many positions as channels: the shape alone would not tell the gated value's axis from the shortcut's."""
    net = Net(lambda m, x: x.transpose(1, 3) + (2.0 * _branch(m, x)).transpose(1, 3), **_layers())
    ((site,),) = analysed(net, (2, 16, 16, 16)).anatomies.values()
    assert (site.gated.name, site.channel_axis) == ("b", 1)


def test_a_map_that_is_subtracted_is_named() -> None:
    """DnCNN's noise, the error of a back-projection: no skip add, and not passed over in silence."""
    layers = {"a": toys.conv(16, 16), "b": toys.conv(16, 16)}
    for subtract in (
        lambda x, y: x - y,
        torch.sub,
        torch.subtract,
        lambda x, y: torch.rsub(y, x),
        lambda x, y: y.sub_(x),
    ):
        net = Net(lambda m, x, by=subtract: read_on(by(x, m.b(torch.relu(m.a(x))))), **layers)
        sites = find_sites(net, input_size=(16, 16, 16))
        assert list(sites) == []
        (skipped,) = sites.skipped
        assert (skipped.operation, skipped.reason) == (
            "subtraction",
            "subtracts one map from another (an error, a difference), and adds none: R1",
        )
    # What an add would not be either is not named.
    net = Net(lambda m, x: read_on(x - x.mean((2, 3), keepdim=True) + m.b(torch.relu(m.a(x)))), **layers)
    assert [site.block for site in find_sites(net, input_size=(16, 16, 16))] == [""]
    assert find_sites(net, input_size=(16, 16, 16)).skipped == ()


HALVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "chunk": lambda x: x.chunk(2, 1),
    "split": lambda x: torch.split(x, x.shape[1] // 2, dim=1),
    "slices": lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
}


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize("scale", [None, 0.5])
def test_the_halves_of_a_reversible_block_are_sites(halves: str, scale: float | None) -> None:
    """R5: split and joined in the block, each half is a block's end; the sums of a Res2Net are convolved first."""

    class Reversible(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.f, self.g = (nn.Sequential(toys.conv(c, c), nn.ReLU(), toys.conv(c, c)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = HALVES[halves](x)
            a = a + self.f(b)
            b = b + self.g(a)
            if scale is not None:
                a, b = scale * a, scale * b
            return torch.cat([a, b], 1)

    model = toys.Toy(nn.Sequential(Reversible(8), Reversible(8)))
    sites = find_sites(model, input_size=(3, 16, 16))
    assert [(site.block, site.kind, site.index, site.channels) for site in sites] == [
        (f"body.{block}", "residual", half, 8) for block in (0, 1) for half in (0, 1)
    ]
    same_at_identity(model, (3, 16, 16))
