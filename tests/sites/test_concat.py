"""The mixed rule, clause by clause, on toy nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import find_sites
from attn_inject.sites.concat import find_mixed
from attn_inject.tracing.nodes import block_of

from .. import toys
from .graphs import Net, Pair, analysed, gated, read_on, reasons


def test_outer_concat_of_an_inception_block_is_the_site() -> None:
    sites = find_sites(toys.inception(), input_size=(3, 16, 16))
    assert [(s.kind, s.block, s.channels) for s in sites] == [("mixed", "body", 24 + 8)]
    assert [s.reason for s in sites.skipped if s.operation == "concat"] == ["stands inside another block's branch: M6"]


def test_concat_inside_a_residual_branch_is_none() -> None:
    def run(m: toys.Lambda, x: torch.Tensor) -> torch.Tensor:
        return x + m.c(torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 1))

    body = toys.Lambda(run, a=toys.conv(16, 8, 1), b=toys.conv(16, 8), c=toys.conv(16, 16, 1))
    sites = find_sites(toys.Toy(body), input_size=(3, 16, 16))
    assert [s.kind for s in sites] == ["residual"]
    assert ["M6" in s.reason for s in sites.skipped] == [True]


def test_cross_stage_concat_is_none_but_its_block_is_a_site() -> None:
    sites = find_sites(toys.cross_stage(), input_size=(3, 16, 16))
    assert [(s.kind, s.block) for s in sites] == [("residual", "body.block")]
    assert any("cross-stage" in s.reason for s in sites.skipped)


def test_concat_along_another_axis_is_none() -> None:
    body = toys.Lambda(
        lambda m, x: torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 2), a=toys.conv(16, 16), b=toys.conv(16, 16)
    )
    assert list(find_sites(toys.Toy(body), input_size=(3, 16, 16))) == []


def _two(m: Net, x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.relu(m.a(x)), torch.relu(m.b(x))]


def _layers(**others: nn.Module | torch.Tensor) -> dict[str, nn.Module | torch.Tensor]:
    return {"a": toys.conv(16, 16), "b": toys.conv(16, 16), **others}


def _linear_last(m: Net, x: torch.Tensor) -> torch.Tensor:
    x = x.permute(0, 2, 3, 1)
    return torch.cat([m.f(x), m.b(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)], -1)


def _dense_path(m: Net, x: torch.Tensor) -> torch.Tensor:
    """DPN: part of a residual branch's result goes to a concat instead."""
    inner = torch.relu(m.a(x))
    summed = x + m.b(inner)
    return torch.cat([m.c(x), m.d(inner)], 1) + torch.cat([summed, summed], 1)


def _in_a_branch(m: Net, x: torch.Tensor) -> torch.Tensor:
    return x + m.c(torch.cat(_two(m, x), 1))


def _in_an_outer_part(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.cat(_two(m, m.d(x)), 1), m.c(x)], 1)


def _matmul_parts(m: Net, x: torch.Tensor) -> torch.Tensor:
    y, z = _two(m, x)
    return torch.cat([y @ z, z @ y], 1)


def _sequences(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([m.a1(x), torch.relu(m.b1(x))], 1)


TAKEN: dict[str, tuple[str, Callable[[Net, torch.Tensor], Any], dict[str, Any]]] = {
    # rule and case -> the concat, the net
    "M1 maps along the channels": ("cat", lambda m, x: torch.cat(_two(m, x), 1), {}),
    "M1 counted from behind": ("cat", lambda m, x: torch.cat(_two(m, x), dim=-3), {}),
    "M1 channels last": ("cat", _linear_last, {"f": nn.Linear(16, 16)}),
    "M2 the nearest fork": ("cat", lambda m, x: torch.cat(_two(m, torch.relu(x)), 1), {}),
    "M4 a part that does not convolve": (
        "cat",
        lambda m, x: torch.cat([*_two(m, x), F.max_pool2d(x, 3, 1, 1)], 1),
        {},
    ),
    "M5 one slice and the whole": (
        "cat",
        lambda m, x: torch.cat([m.a(x), m.h(x[:, :8])], 1),
        {"h": toys.conv(8, 8)},
    ),
    "M5 the same slice": (
        "cat",
        lambda m, x: torch.cat([m.h(y := x[:, :8]), torch.relu(m.i(y))], 1),
        {"h": toys.conv(8, 8), "i": toys.conv(8, 8)},
    ),
    "M10 up from a coarser fork": (
        "cat",
        lambda m, x: torch.cat(
            [F.interpolate(m.a(x), scale_factor=2.0), m.b(F.interpolate(torch.relu(x), scale_factor=2.0))], 1
        ),
        {},
    ),
    "M6 the outer one": ("cat_1", _in_an_outer_part, {"c": toys.conv(16, 16), "d": toys.conv(16, 16)}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case: str) -> None:
    node, run, others = TAKEN[case]
    graph = analysed(Net(lambda m, x: read_on(run(m, x)), **_layers(**others)))
    assert gated(graph) == [("mixed", node)]


M10 = "a part comes back from a coarser map (U-Net, hourglass, pooled context): M10"
M6_INSIDE = "stands inside another block's branch: M6"
LOOK_ALIKES: dict[str, tuple[list[str], Callable[[Net, torch.Tensor], Any], dict[str, Any]]] = {
    # rule and case -> the reasons of all adds and concats that are no sites, the net
    "M1 one part": (["joins no two values: M1"], lambda m, x: torch.cat([m.a(x)], 1), {}),
    "M1 a parameter": (
        ["joins a parameter or a constant: M1"],
        lambda m, x: torch.cat([m.a(x), m.b(x), m.w], 1), {"w": torch.ones(2, 1, 8, 8)},
    ),
    "M1 vectors": (
        ["joins no feature maps: M1"], lambda m, x: torch.cat([y.mean((2, 3)) for y in _two(m, x)], 1), {},
    ),
    "M1 another axis": (["does not join along the channel axis: M1"], lambda m, x: torch.cat(_two(m, x), 2), {}),
    "M1 the batch": (["does not join along the channel axis: M1"], lambda m, x: torch.cat(_two(m, x)), {}),
    "M1 unknown channels": (["does not join along the channel axis: M1"], _matmul_parts, {}),
    "M1 tokens": (
        ["joins token sequences: M1"], lambda m, x: torch.cat([y.flatten(2) for y in _two(m, x)], 1), {},
    ),
    "M3 the fork itself": (
        ["one part derives from another (feature reuse): M3"], lambda m, x: torch.cat([x, m.a(x)], 1), {},
    ),
    "M3 a copy of the fork": (
        ["one part derives from another (feature reuse): M3"],
        lambda m, x: torch.cat([x.clone(), m.b(torch.relu(m.a(x)))], 1),
        {},
    ),
    "M3 the same part twice": (
        ["one part derives from another (feature reuse): M3"], lambda m, x: torch.cat([y := m.a(x), y], 1), {},
    ),
    "M3 the same part twice, around another": (
        ["one part derives from another (feature reuse): M3"],
        lambda m, x: torch.cat([y := m.a(x), m.b(x), y], 1),
        {},
    ),
    "M3 a part of a part": (
        ["one part derives from another (feature reuse): M3"],
        lambda m, x: torch.cat([y := m.a(x), torch.relu(m.b(y) + x), m.c(x)], 1), {"c": toys.conv(16, 16)},
    ),
    "M3 the later part first": (
        ["one part derives from another (feature reuse): M3"],
        lambda m, x: torch.cat([m.c(x), torch.relu(m.b(y := m.a(x)) * x), y], 1), {"c": toys.conv(16, 16)},
    ),
    "M4 no convolution": (
        ["no part holds a convolution: M4"], lambda m, x: torch.cat([torch.relu(x), torch.sigmoid(x)], 1), {},
    ),
    "M5 slices": (
        ["the parts are different slices of one split: M5"],
        lambda m, x: torch.cat([m.h(x[:, :8]), m.i(x[:, 8:])], 1), {"h": toys.conv(8, 8), "i": toys.conv(8, 8)},
    ),
    "M3 the fork behind an identity": (
        ["one part derives from another (feature reuse): M3"],
        lambda m, x: torch.cat([m.i(x), m.a(x), m.b(x)], 1),
        {"i": nn.Identity()},
    ),
    "M3 two streams that cross": (
        ["the parts exchange values on their way (streams): M3"],
        lambda m, x: torch.cat([m.b(y := torch.relu(m.a(x)) * m.c(x)), m.d(torch.relu(m.c(x)) * y)], 1),
        {"c": toys.conv(16, 16), "d": toys.conv(16, 16)},
    ),
    "M10 a pooled context (ASPP)": (
        [M10],
        lambda m, x: torch.cat(
            [*_two(m, x), F.interpolate(torch.relu(m.c(x.mean((2, 3), keepdim=True))), size=(8, 8))], 1
        ),
        {"c": toys.conv(16, 16, 1)},
    ),
    "M10 a skip of a U-Net that convolves": (
        [M10],
        lambda m, x: torch.cat([m.a(x), F.interpolate(m.b(torch.relu(m.down(x))), scale_factor=2.0)], 1),
        {"down": toys.conv(16, 16, s=2)},
    ),
    "M6 a block end in a part": (
        ["a part holds a block end of its own (cross-stage concat): M6"],
        lambda m, x: torch.cat([m.c(x), (y := m.d(x)) + m.b(torch.relu(m.a(y)))], 1),
        {"c": toys.conv(16, 16), "d": toys.conv(16, 16)},
    ),
    "M6 in a residual branch": ([M6_INSIDE], _in_a_branch, {"c": toys.conv(32, 16)}),
    "M6 in a part of an outer one": ([M6_INSIDE], _in_an_outer_part, {"c": toys.conv(16, 16), "d": toys.conv(16, 16)}),
}  # fmt: skip


@pytest.mark.parametrize("case", LOOK_ALIKES)
def test_look_alikes(case: str) -> None:
    expected, run, others = LOOK_ALIKES[case]
    found = reasons(analysed(Net(lambda m, x: read_on(run(m, x)), **_layers(**others))))
    assert [reason for reason in found if not reason.endswith(("R1", "R4"))] == expected


def test_two_inputs_are_no_block() -> None:
    graph = analysed(Pair(lambda m, x, y: torch.cat([m.a(x), m.b(y)], 1), **_layers()), *[(2, 16, 8, 8)] * 2)
    assert reasons(graph) == ["the parts come from different inputs: M2"]


def test_networks_of_sequences_have_blocks() -> None:
    net = Net(lambda m, x: read_on(_sequences(m, x)), a1=toys.conv(16, 16, d=1), b1=toys.conv(16, 16, d=1))
    assert gated(analysed(net, (2, 16, 8))) == [("mixed", "cat")]


def test_a_dense_path_reads_from_inside_a_branch() -> None:
    graph = analysed(Net(_dense_path, **_layers(c=toys.conv(16, 16), d=toys.conv(16, 16))))
    assert gated(graph) == [("residual", "b")]
    assert "reads from inside a residual branch (dense path): M6" in reasons(graph)


def test_nodes_of_a_site_and_the_order_of_several() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat(_two(m, x), 1)
        y = torch.cat([y, m.c(y)], 1)
        y = torch.cat([y, m.d(y)], 1)
        return read_on(torch.cat([torch.relu(m.e(y)), m.e(y)], 1))

    others = {"c": toys.conv(32, 4), "d": toys.conv(36, 4), "e": toys.conv(40, 4)}
    graph = analysed(Net(run, **_layers(**others)))
    sites = [site for calls in graph.anatomies.values() for site in calls]
    assert [(s.gated.name, s.join.name, s.fork and s.fork.name, s.channel_axis) for s in sites] == [
        ("cat", "cat", "x", 1),
        ("cat_3", "cat_3", "cat_2", 1),
    ]
    assert [(r.node.name, r.operation) for r in graph.refusals] == [("cat_1", "concat"), ("cat_2", "concat")]
    axes, flow = graph.axes, graph.flow
    mixed, refused = find_mixed(flow, axes, [], set())
    assert ([site.join.name for site in mixed], [r.node.name for r in refused]) == (
        ["cat", "cat_3"],
        ["cat_1", "cat_2"],
    )


def _cell(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([m.b(torch.relu(m.a(x))) + x, m.d(torch.relu(m.c(x))) + x], 1)


def test_concats_inside_a_cell_are_no_blocks() -> None:
    """M7: neither the cell's own nor those of its children; a module beside it with a longer name is none of them."""
    child = Net(lambda m, x: m.pick(torch.cat(_two(m, x), 1)), **_layers(pick=toys.conv(32, 16)))
    beside = Net(lambda m, x: torch.cat(_two(m, x), 1), **_layers())
    cell = Net(lambda m, x: _cell(m, m.child(x)), **{n: toys.conv(16, 16) for n in "abcd"}, child=child)
    net = Net(lambda m, x: read_on(torch.cat([m.cell(x), m.cell2(x)], 2)), cell=cell, cell2=beside)
    graph = analysed(net)
    assert [(site.kind, site.block) for (site,) in graph.anatomies.values()] == [("mixed", "cell2")]
    by_block = {block_of(r.node): r.reason for r in graph.refusals if r.operation == "concat"}
    inside = "inside a cell whose sums are combined by concat: M7"
    assert by_block == {"cell.child": inside, "cell": inside, "": "does not join along the channel axis: M1"}


class Optional(nn.Module):
    """CGNet's block: a concat, what convolves it, and a skip add but in the first block of a stage."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.reduce, self.a, self.b, self.project = (toys.conv(i, 16) for i in (16, 16, 16, 32))
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.reduce(x))
        y = self.project(torch.relu(torch.cat([self.a(y), self.b(y)], 1)))
        return x + y if self.skip else y


class Squeezed(nn.Module):
    """SqueezeNet with a bypass around every other Fire block: the concat is what the block hands over, or adds."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.squeeze, self.a, self.b, self.skip = toys.conv(16, 4, 1), toys.conv(4, 8, 1), toys.conv(4, 8), skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.squeeze(x))
        y = torch.cat([torch.relu(self.a(y)), torch.relu(self.b(y))], 1)
        return x + y if self.skip else y


def _of_blocks(*blocks: nn.Module) -> list[tuple[str, str, str]]:
    sites = find_sites(toys.Toy(nn.Sequential(*blocks)), input_size=(3, 16, 16))
    return [(site.kind, site.block, site.node) for site in sites]


def test_a_concat_in_a_block_without_its_skip_add_is_none() -> None:
    """M6: its brothers hold it in their branch; it is a plain block."""
    assert _of_blocks(Optional(False), Optional(True)) == [("residual", "body.1", "body_1_project")]
    assert _of_blocks(Optional(False)) == [("mixed", "body.0", "cat")]


def test_blocks_that_hand_over_or_add_their_concat_are_gated_in_the_same_place() -> None:
    found = _of_blocks(Squeezed(False), Squeezed(True))
    assert found == [("mixed", "body.0", "cat"), ("residual", "body.1", "cat_1")]
