"""What runs the same code, and what a call computes itself."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import nn

from attn_inject.sites.brothers import enclosing, forward_of, groups_of, is_computed_by, way_to
from attn_inject.tracing.nodes import frame_of

from .. import toys
from .graphs import Read, names, read


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = toys.conv(16, 16), toys.conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Heir(Body):
    pass


class Own(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))


def _wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def run(*args: Any) -> Any:
        return function(*args)

    return run


class Decorated(Body):
    forward = _wrapped(Body.forward)


def _net(*blocks: nn.Module) -> Read:
    return read(nn.Sequential(*blocks), (2, 16, 8, 8))


def test_the_code_that_runs_is_asked_for_and_no_name() -> None:
    overriding = Body()
    overriding.forward = types.MethodType(Own.forward, overriding)  # type: ignore[method-assign]
    found = _net(Body(), Heir(), Own(), Decorated(), overriding)
    codes = [forward_of(found.flow, str(n)) for n in range(5)]
    assert codes[0] is codes[1] is codes[3]
    assert codes[2] is codes[4] is not codes[0]


def test_brothers_are_made_at_one_place_of_one_code() -> None:
    found = _net(Body(), Own(), Heir())
    adds = [found[name] for name in ("add", "add_1", "add_2")]
    assert [names(group) for group in groups_of(found.flow, adds)] == [["add", "add_2"], ["add_1"]]


class Either(nn.Module):
    """Two lines, of which each call runs one."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            return torch.cat([x, x * 2], 1)[:, :16]
        return torch.cat([x, x * 3], 1)[:, :16]


def test_only_ones_are_alike_where_that_is_asked_for() -> None:
    found = _net(Either(first=True), Either(first=False))
    cats = [found["cat"], found["cat_1"]]
    assert len(groups_of(found.flow, cats)) == 2
    assert [names(group) for group in groups_of(found.flow, cats, only_ones_alike=True)] == [["cat", "cat_1"]]


def test_what_a_call_computes_ends_where_it_was_given_the_value() -> None:
    block = Body()
    found = _net(toys.conv(16, 16), block, block)
    second = found["add_1"]
    way = way_to(found.flow, second, frame_of(second))
    assert sorted(names(way.nodes)) == ["_1_a_1", "_1_b_1", "add_1", "relu_1"]
    assert names(way.inputs) == ["add"]
    assert (way.holds_convolution(found.flow), way.is_nonlinear(found.flow)) == (True, True)
    assert found.flow.convolutions_in_a_row(way.nodes) == 2
    given = way_to(found.flow, found["add"], frame_of(second))
    assert (given.nodes, names(given.inputs)) == (frozenset(), ["add"])
    assert not given.holds_convolution(found.flow)
    assert found.flow.convolutions_in_a_row(given.nodes) == 0
    assert [is_computed_by(found[name], frame_of(second)) for name in ("_0", "add", "_1_a", "_1_a_1")] == [
        False, False, False, True,
    ]  # fmt: skip


def test_the_models_own_way_ends_at_its_inputs() -> None:
    found = read(Body(), (2, 16, 8, 8))
    way = way_to(found.flow, found["add"], ("", 0))
    assert names(way.inputs) == ["x"]


def test_modules_around_a_path() -> None:
    assert list(enclosing("a.b.0")) == ["a.b.0", "a.b", "a"]
    assert list(enclosing("")) == []
