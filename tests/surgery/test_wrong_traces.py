"""Code that asks what a value is in a way that no proxy can answer: `inject` refuses, `attach` follows one run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import PlanError, RewriteError, attach, inject
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import locate_and_plan
from attn_inject.surgery.wrong_traces import wrong_trace

from .. import toys

SIZE = (16, 8, 8)


@functools.singledispatch
def doubled(x: object) -> object:
    return x


@doubled.register
def _(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def _matched(x: Any) -> Any:
    match x:
        case torch.Tensor():
            return x * 2
        case _:
            return x


ASKS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "dispatch": lambda _, x: doubled(x),  # type: ignore[dict-item, return-value]
    "match": lambda _, x: _matched(x),
    "class": lambda _, x: x * 2 if x.__class__.__name__ == "Tensor" else x,
    "in train mode": lambda model, x: _matched(x) if model.training else x,
}


class Net(nn.Module):
    def __init__(self, ask: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.ask = ask
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.ask(self, x))


@pytest.mark.parametrize("name", ASKS)
@pytest.mark.slow
def test_attach_follows_a_run_where_the_graph_is_not_the_model(name: str) -> None:
    model, x = Net(ASKS[name]), torch.randn(2, *SIZE)
    with pytest.raises(RewriteError, match=r"the graph and the model's own code are up to .* apart: use attach\(\)"):
        inject(model, "se", input_size=SIZE)
    same = attach(model, "se", input_size=SIZE, reduction=4, init="identity")
    gated = attach(model, "se", input_size=SIZE, reduction=4)
    assert "the graph of Net is not what its code does" in str(gated.injection.plan.notes)
    for mode in (False, True):
        for each in (model, same, gated):
            each.train(mode)
        with torch.no_grad():
            assert torch.equal(same(x), model(x))
            assert not torch.equal(gated(x), model(x))
        assert toys.gates_run(gated, x) == 1


def test_what_is_wrong_for_another_reason_is_not_tried_again() -> None:
    with pytest.raises(PlanError, match="no sites"):
        attach(nn.Sequential(toys.conv(16, 16)), "se", input_size=SIZE)


def test_whether_a_graph_is_the_model_is_asked_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    right = locate_and_plan(Net(lambda _, x: x), Choices(attention="se", input_size=SIZE))
    assert wrong_trace(*right) is None
    wrong = locate_and_plan(Net(ASKS["match"]), Choices(attention="se", input_size=SIZE))
    assert "is not what its code does" in str(wrong_trace(*wrong))
    with torch.device("meta"):
        shapes = locate_and_plan(Net(lambda _, x: x), Choices(attention="se", input_size=SIZE))
    assert wrong_trace(*shapes) is None

    def fails(*_: object) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr("attn_inject.surgery.wrong_traces.smallest_pass", fails)
    assert str(wrong_trace(*right)) == "the graph of Net does not run: no such thing"
