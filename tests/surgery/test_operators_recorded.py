"""A recording is told of other functions than a trace, for the same operator of the model's code."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites
from attn_inject.tracing.spelled import written
from attn_inject.types import Placement

from ..toys import conv, gates_run


class Gated(nn.Module):
    """A residual block whose branch ends in what an operator makes."""

    def __init__(self, ending: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.factor, self.ending = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16)), conv(16, 16), ending

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return torch.relu(x + self.ending(y, self.factor(y)))


class Free(nn.Module):
    """Decides on data, so that there is no graph of the whole."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks = conv(3, 16), nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(self.stem(x))
        return y if y.max() > -1e9 else -y


def _times_in_place(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    y *= z
    return y


ENDINGS = {
    "*": lambda y, z: y * z,
    "*=": _times_in_place,
    "torch.mul": torch.mul,
    ".mul": lambda y, z: y.mul(z),
    "/": lambda y, z: y / (2 + z),
    "1 /": lambda y, z: 1 / (3 + y),
    "-": lambda y, z: -y,
    "%": lambda y, z: y % 2,
    "**": lambda y, z: y**2,
    "[]": lambda y, z: torch.cat([y, z], 1)[:, : y.shape[1]],
}


@pytest.mark.parametrize("placement", ["standard", "identity"])
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.slow
def test_every_block_is_attached_to_whatever_operator_makes_what_is_gated(ending: Any, placement: Placement) -> None:
    model, x = Free(*(Gated(ending) for _ in range(3))).eval(), torch.randn(2, 3, 8, 8)
    assert find_sites(model, example_inputs=x).recorded
    attached = attach(model, "se", reduction=4, example_inputs=x, placement=placement)
    assert gates_run(attached, x) == 3
    assert not [note for note in attached.injection.plan.notes if note.startswith("left out")]
    assert not torch.equal(attached(x), model(x))
    same = attach(model, "se", reduction=4, example_inputs=x, placement=placement, init="identity")
    assert torch.equal(same(x), model(x))


@pytest.mark.parametrize(
    ("functions", "name"),
    [
        ([operator.mul, operator.imul, "mul", "mul_", "__rmul__", torch.Tensor.mul_, "multiply"], "mul"),
        ([operator.truediv, operator.itruediv, "div", "div_", "__rdiv__", torch.true_divide], "truediv"),
        ([operator.sub, operator.isub, "sub", "__rsub__", "rsub", "subtract"], "sub"),
        ([operator.mod, "remainder", torch.remainder], "mod"),
        ([operator.and_, "__and__", "__iand__"], "and"),
        ([operator.invert, "bitwise_not"], "invert"),
    ],
)
def test_one_name_for_all_that_an_operator_is_known_by(functions: list[Any], name: str) -> None:
    assert {written(function) for function in functions} == {name}


def test_whatever_else_is_called_is_itself() -> None:
    for function in (torch.relu, "relu_", "index_select", "round", "repeat", "is_complex", "reshape", torch.cat):
        assert written(function) is function
