"""Which child of a block returns the value to gate, and why there may be none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import PlanError
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import locate_and_plan
from attn_inject.surgery.makers import maker

from ..toys import Lambda, Toy, conv

SMALL = (3, 16, 16)
relu = torch.relu


def _made(body: nn.Module, placement: Any = "standard", other: Any = None) -> Any:
    located, plan = locate_and_plan(Toy(body), Choices(attention="se", input_size=SMALL, placement=placement))
    (insertion,) = plan.insertions
    return maker(located, insertion if other is None else replace(insertion, placement=other))


def _body(run: Any) -> nn.Module:
    return Lambda(run, a=conv(16, 16), b=conv(16, 16))


def test_the_child_and_how_its_axes_lie() -> None:
    assert _made(_body(lambda m, x: x + m.b(relu(m.a(x))))) == ("b", None)

    def last(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        y = m.fc(relu(m.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        return (x + y).permute(0, 3, 1, 2)

    assert _made(Lambda(last, dw=conv(16, 16), fc=nn.Linear(16, 16))) == ("fc", (0, 3, 1, 2))


NO_MODULE = "body: no module returns the value to gate there, or others read it too"


@pytest.mark.parametrize(
    ("run", "placement", "sentence"),
    [
        (lambda m, x: x + torch.tanh(m.b(relu(m.a(x)))), "standard", NO_MODULE),
        # Run twice in one call of its block.
        (lambda m, x: x + m.b(relu(m.b(relu(m.a(x))))), "standard", NO_MODULE),
        # The branch alone reads the gate, and the shortcut does not.
        (lambda m, x: x + m.b(relu(m.a(x))), "pre", NO_MODULE),
        (
            lambda m, x: x + (m.b(relu(m.a(x))) if m.training else m.a(relu(m.b(x)))),
            "standard",
            "body: another module makes the gated value in train mode",
        ),
    ],
)
def test_why_there_is_none(run: Any, placement: Any, sentence: str) -> None:
    with pytest.raises(PlanError) as caught:
        _made(_body(run), placement)
    assert str(caught.value) == sentence


def test_a_placement_that_the_block_has_not() -> None:
    with pytest.raises(PlanError, match="^body: placement conv3x3 needs a block with one spatial convolution"):
        _made(_body(lambda m, x: x + m.b(relu(m.a(x)))), other="conv3x3")


class Holding(nn.Module):
    """Holds a block's last layer first, under a name of its own."""

    def __init__(self, net: nn.Module, early: nn.Module) -> None:
        super().__init__()
        self.early, self.net = early, net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.net(x)
        return made


def test_a_child_that_is_another_modules_first() -> None:
    model = Toy(_body(lambda m, x: x + m.b(relu(m.a(x)))))
    whole = Holding(model, model.get_submodule("body.b"))
    located, plan = locate_and_plan(whole, Choices(attention="se", input_size=SMALL))
    with pytest.raises(PlanError, match=r"^net\.body: early, which makes the gated value, lies outside of net\.body$"):
        maker(located, plan.insertions[0])
