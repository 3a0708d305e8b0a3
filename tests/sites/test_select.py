"""The sites of both graphs brought together: calls, indices, sizes, stage numbers, order, what is missing in a mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import attach, find_sites, make_plan
from attn_inject.sites.reading import read
from attn_inject.sites.reasons import RUNS_MODULES
from attn_inject.types import Kind, Site

from .. import toys
from .graphs import Net


def _sites(net: nn.Module, size: tuple[int, ...] = (16, 8, 8), kinds: tuple[Kind, ...] | None = None) -> list[Site]:
    return list(find_sites(net.to("meta"), input_size=size, kinds=kinds or ("residual", "mixed")))


def _block(m: Net, x: torch.Tensor) -> torch.Tensor:
    return x + m.b(torch.relu(m.a(x)))


def block() -> Net:
    return Net(_block, a=toys.conv(16, 16), b=toys.conv(16, 16))


def twice(m: Net, x: torch.Tensor) -> torch.Tensor:
    x = x + m.b(torch.relu(m.a(x)))
    x = torch.cat([torch.relu(m.a(x)), m.b(x)], 1)[:, :16]
    return x + m.a(torch.relu(m.b(x)))


def test_several_sites_of_one_block_have_an_index_each() -> None:
    net = Net(lambda m, x: m.one(m.two(x)), one=Net(twice, a=toys.conv(16, 16), b=toys.conv(16, 16)), two=block())
    assert [(s.kind, s.block, s.index, s.calls, s.node, s.join) for s in _sites(net)] == [
        ("residual", "two", 0, 1, "two_b", "add"),
        ("residual", "one", 0, 1, "one_b", "add_1"),
        ("mixed", "one", 0, 1, "cat", "cat"),
        ("residual", "one", 1, 1, "one_a_2", "add_2"),
    ]


def test_several_calls_of_one_block_are_one_site_in_each_index() -> None:
    one = Net(twice, a=toys.conv(16, 16), b=toys.conv(16, 16))
    sites = _sites(Net(lambda m, x: m.one(m.one(m.one(x))), one=one))
    assert [(s.kind, s.index, s.calls, s.node) for s in sites] == [
        ("residual", 0, 3, "one_b"),
        ("mixed", 0, 3, "cat"),
        ("residual", 1, 3, "one_a_2"),
    ]


def test_anatomies_are_those_of_every_call_in_both_graphs() -> None:
    located = read(Net(lambda m, x: m.one(m.one(x)), one=block()).to("meta"), input_size=(16, 8, 8))
    assert {mode: [[a.gated.name for a in calls] for calls in graph.anatomies.values()] for mode, graph in
            located.graphs.items()} == {"eval": [["one_b", "one_b_1"]], "train": [["one_b", "one_b_1"]]}  # fmt: skip
    assert [list(graph.anatomies) for graph in located.graphs.values()] == [[("residual", "one", 0)]] * 2


@pytest.mark.parametrize(
    ("stride", "input_size", "size", "stage"),
    [
        (1, (16, 8, 8), (8, 8), 0),
        (2, (16, 8, 8), (4, 4), 1),
        (4, (16, 16, 16), (4, 4), 2),
        (8, (16, 64, 64), (8, 8), 3),
        # 224 / 5 and 224 / 6: the nearest power of two.
        (5, (16, 224, 224), (45, 45), 2),
        (6, (16, 224, 224), (38, 38), 3),
        # The longer side counts.
        (2, (16, 8, 32), (4, 16), 1),
        (2, (16, 32, 8), (16, 4), 1),
    ],
)
def test_stage_is_how_often_the_map_was_halved(
    stride: int, input_size: tuple[int, ...], size: tuple[int, ...], stage: int
) -> None:
    net = Net(lambda m, x: m.block(m.down(x)), down=nn.Conv2d(16, 16, 1, stride), block=block())
    (site,) = _sites(net, input_size)
    assert (site.size, site.stage, site.channels) == (size, stage, 16)


def test_a_map_larger_than_the_input_is_of_stage_nought() -> None:
    net = Net(lambda m, x: m.block(F.interpolate(x, scale_factor=4.0)), block=block())
    (site,) = _sites(net)
    assert (site.size, site.stage) == ((32, 32), 0)


def test_channels_last() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).permute(0, 2, 3, 1)
        return x + 0.5 * m.f(F.gelu(y)).permute(0, 3, 1, 2)

    def narrow(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        return x + 0.5 * m.f(F.gelu(m.a(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))

    layers = {"a": toys.conv(16, 16), "f": nn.Linear(16, 16)}
    first, last = (_sites(Net(forward, **layers), (16, 8, 4))[0] for forward in (run, narrow))
    assert (first.layout, first.channels, first.size, first.node) == ("channels_first", 16, (8, 4), "permute_1")
    assert (last.layout, last.channels, last.size, last.node) == ("channels_last", 16, (8, 4), "f")


def test_one_dimensional() -> None:
    net = Net(lambda m, x: x + m.b(torch.relu(m.a(x))), a=toys.conv(16, 16, d=1), b=toys.conv(16, 16, d=1))
    (site,) = _sites(net, (16, 12))
    assert (site.size, site.stage, site.layout) == ((12,), 0, "channels_first")


def _in_eval_only(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.b(torch.relu(m.a(x))) if m.training else _block(m, x)


@pytest.mark.parametrize(("inside", "block"), [(True, "one"), (False, "")])
def test_a_site_that_train_mode_lacks_is_none_and_says_so(inside: bool, block: str) -> None:
    """As in doctr's SAR, which feeds its state back in eval mode only."""
    net = Net(_in_eval_only, a=toys.conv(16, 16), b=toys.conv(16, 16))
    whole = Net(lambda m, x: m.one(x), one=net) if inside else net
    assert _sites(whole) == []
    (skipped,) = find_sites(whole, input_size=(16, 8, 8)).skipped
    assert (skipped.block, skipped.operation) == (block, "add")
    assert skipped.reason == "not a site in train mode, where the model computes something else: R13"


def test_a_plan_says_what_train_mode_lacks() -> None:
    net = Net(
        lambda m, x: m.two(m.one(x)), one=Net(_in_eval_only, a=toys.conv(16, 16), b=toys.conv(16, 16)), two=block()
    )
    plan = make_plan(net, "se", input_size=(16, 8, 8), reduction=4)
    assert [insertion.site.block for insertion in plan.insertions] == ["two"]
    assert "left out, since the model computes something else there in train mode: one" in plan.notes


def test_a_value_that_is_expanded_to_a_map_is_a_broadcast_one() -> None:
    """doctr's SAR adds its state, one vector, to what it attends to."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        state = m.s(m.b(torch.relu(x)).mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return m.a(x) + state

    net = Net(run, a=toys.conv(16, 16), b=toys.conv(16, 16), s=toys.conv(16, 16, 1))
    assert _sites(net) == []
    sites = find_sites(net, input_size=(16, 8, 8))
    assert [skipped.reason for skipped in sites.skipped] == [
        "adds a broadcast value, (16, 1, 1) expanded to (16, 8, 8): R1"
    ]


def test_a_site_that_only_train_mode_has_is_none() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        return _block(m, x) if m.training else m.b(torch.relu(m.a(x)))

    assert _sites(Net(run, a=toys.conv(16, 16), b=toys.conv(16, 16))) == []


def test_what_was_skipped_is_told_in_execution_order() -> None:
    def inner(m: Net, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, m.a(x)], 1)

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = m.first(x)[:, :16] + 1.0
        x = torch.cat([x, torch.relu(x)], 2)
        return m.second(x)[:, :16] + 2.0

    net = Net(run, first=Net(inner, a=toys.conv(16, 16)), second=Net(inner, a=toys.conv(16, 16)))
    skipped = find_sites(net.to("meta"), input_size=(16, 8, 8)).skipped
    number = "adds a parameter or a constant (position embedding, bias): R1"
    reuse = "one part derives from another (feature reuse): M3"
    assert [(s.node, s.block, s.operation, s.reason) for s in skipped] == [
        ("cat", "first", "concat", reuse),
        ("add", "", "add", number),
        ("cat_1", "", "concat", "does not join along the channel axis: M1"),
        ("cat_2", "second", "concat", reuse),
        ("add_1", "", "add", number),
    ]


def _attention(m: Net, x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(m.s(x.mean((2, 3), keepdim=True)))


def _optional(m: Net, x: torch.Tensor) -> torch.Tensor:
    y = m.b(torch.relu(m.a(x)))
    return x + m.se(y) if hasattr(m, "se") else y


def test_kinds_are_found_when_they_are_asked_for() -> None:
    one, two = (Net(_optional, a=toys.conv(16, 16), b=toys.conv(16, 16)) for _ in range(2))
    one.se = Net(_attention, s=toys.conv(16, 16, 1))
    three = Net(twice, a=toys.conv(16, 16), b=toys.conv(16, 16))
    net = Net(lambda m, x: m.three(m.two(m.one(x))), one=one, two=two, three=three)

    def found(*kinds: Kind) -> list[tuple[str, str, str]]:
        return [(s.kind, s.block, s.existing) for s in _sites(net, kinds=kinds)]

    assert found("mixed") == [("mixed", "three", "")]
    assert found("attention") == [("attention", "one.se", "one.se")]
    assert found("plain") == [("plain", "two", "")]
    assert found("stage") == [("stage", "three", "one.se")]
    assert found("residual", "attention") == [
        ("attention", "one.se", "one.se"),
        ("residual", "one", "one.se"),
        ("residual", "three", ""),
        ("residual", "three", ""),
    ]


def test_a_value_that_reaches_no_output_is_no_site() -> None:
    """As a backbone of which only the first features are asked for."""
    net = Net(
        lambda m, x: ((first := x + m.b(torch.relu(m.a(x)))), first + m.d(torch.relu(m.c(first))))[0],
        **{name: toys.conv(16, 16) for name in "abcd"},
    )
    sites = find_sites(net.to("meta"), input_size=(16, 8, 8))
    assert [site.node for site in sites] == ["b"]
    assert [(skipped.node, skipped.reason) for skipped in sites.skipped] == [
        ("add_1", "its value reaches no output of the network")
    ]


class Reversible(torch.autograd.Function):
    """Runs a module itself, and would run it again for the gradients."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        out: torch.Tensor = module(x)
        return out


@pytest.mark.parametrize(("inner", "told"), [(toys.conv(16, 16), 1), (nn.BatchNorm2d(16), 0)])
def test_modules_that_a_function_runs_are_not_passed_over_in_silence(inner: nn.Module, told: int) -> None:
    layers = {"a": toys.conv(16, 16), "b": toys.conv(16, 16), "inner": inner}
    net = Net(lambda m, x: Reversible.apply(_block(m, x), m.inner), **layers)
    sites = find_sites(net.to("meta"), input_size=(16, 8, 8))
    assert [site.node for site in sites] == ["b"]
    assert [(skipped.operation, skipped.reason) for skipped in sites.skipped] == [("function", RUNS_MODULES)] * told
    notes = make_plan(net, "se", reduction=4, input_size=(16, 8, 8)).notes
    assert ("not looked into, since a function runs it by itself: (model)" in notes) == bool(told)


def test_what_leaves_for_numpy_is_read() -> None:
    """doctr's detectors hand their map to numpy in eval mode: their blocks are blocks all the same."""

    def run(m: Net, x: torch.Tensor) -> Any:
        out = m.head(m.block(x))
        return out if m.training else {"boxes": [(each > 0).sum() for each in out.detach().numpy()]}

    net = Net(run, block=block(), head=toys.conv(16, 1, 1))
    sites = find_sites(net, input_size=(16, 8, 8))
    assert [site.block for site in sites] == ["block"]
    assert sites.recorded
    assert attach(net, "se", reduction=4, input_size=(16, 8, 8)).eval()(torch.zeros(1, 16, 8, 8))["boxes"]


def test_complex_numbers_carry_the_data() -> None:
    """LaMa's Fourier units: a convolution of the real and imaginary parts of the spectrum."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(torch.relu(m.a(x)))
        real, imaginary = m.f(torch.cat([spectrum.real, spectrum.imag], 1)).relu().chunk(2, 1)
        return x + m.b(torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[2:]))

    net = Net(run, a=toys.conv(16, 16), f=toys.conv(32, 32, 1), b=toys.conv(16, 16))
    (site,) = find_sites(net, input_size=(16, 8, 8))
    assert (site.node, site.channels) == ("b", 16)


@pytest.mark.parametrize("spelling", ["repeat", "repeat_interleave", "tile", "index"])
def test_a_shortcut_of_repeated_channels_is_one(spelling: str) -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        repeated = {
            "repeat": lambda: x.repeat(1, 2, 1, 1),
            "repeat_interleave": lambda: torch.repeat_interleave(x, 2, dim=1),
            "tile": lambda: torch.tile(x, (1, 2, 1, 1)),
            "index": lambda: x[:, [*range(16), *range(16)]],
        }[spelling]()
        return repeated + m.b(torch.relu(m.a(x)))

    net = Net(run, a=toys.conv(16, 16), b=toys.conv(16, 32))
    assert [(site.node, site.channels) for site in find_sites(net, input_size=(16, 8, 8))] == [("b", 32)]
