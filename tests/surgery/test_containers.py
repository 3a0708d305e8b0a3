"""Blocks whose own code goes over its children: attention that stands among them runs where it was planned only."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import PlanError, attach, detach, inject, load, save
from attn_inject.surgery.containers import goes_over_children

from .. import toys

SIZE = (16, 8, 8)
X = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


class Applied(nn.Sequential):
    """A layer of a network that was once written in another framework: a function of what its children give."""

    def __init__(self, function: Callable[..., Any], *children: nn.Module) -> None:
        super().__init__(*children)
        self.function = function

    def prepared(self, x: Any) -> Any:
        return [module(x) for module in self._modules.values()] or x


class Table(Applied):
    def forward(self, x: Any) -> Any:
        return list(map(self.function, self.prepared(x)))


class Reduced(Applied):
    def forward(self, x: Any) -> Any:
        return reduce(self.function, self.prepared(x))


class Deciding(nn.Module):
    """Its own code is what runs: it decides on the data."""

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        if parts[0].sum() > 1e9:
            return parts[0]
        for child in self.children():
            parts = [child(part) for part in parts]
        return parts[0] + parts[1]


def _net(add: Callable[[], nn.Module]) -> nn.Module:
    body = nn.Sequential(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
    return nn.Sequential(Table(lambda x: x, body, nn.Identity()), add(), nn.ReLU()).eval()


def test_a_container_that_runs_what_stands_in_it_does_not_run_the_attention() -> None:
    model = _net(lambda: Reduced(lambda x, y: x + y))
    same = attach(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    gated = attach(model, "se", input_size=SIZE, reduction=4).eval()
    assert "1.se.fc1.weight" in gated.state_dict()
    assert toys.gates_run(gated, X) == 1
    with torch.no_grad():
        assert torch.equal(same(X), model(X))
        expected = model[2](gated[1].se(model[0][0](X)) + X)
        torch.testing.assert_close(gated(X), expected)


def test_where_its_own_code_is_what_runs_it_is_left_out_with_the_reason() -> None:
    with pytest.raises(PlanError, match="1: its own code goes over its children, and would run the attention"):
        attach(_net(Deciding), "se", input_size=SIZE, reduction=4)


def test_which_code_goes_over_its_children() -> None:
    assert all(map(goes_over_children, (nn.Sequential(), nn.ModuleList(), Reduced(max), Deciding())))
    assert not any(map(goes_over_children, (toys.Residual(), toys.conv(1, 1), nn.ReLU())))


class Around(nn.Module):
    """ConvMixer's: a skip around whatever it is given."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x) + x
        return out


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("attention", ["sk", "psa"])
def test_what_takes_the_place_of_an_element_stands_where_it_stood(attention: str, at: int) -> None:
    body = [nn.GELU(), nn.BatchNorm2d(16)]
    body.insert(at, nn.Conv2d(16, 16, 3, padding=1))
    model = nn.Sequential(nn.Conv2d(3, 16, 1), Around(nn.Sequential(*body))).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    patched = inject(model, attention, placement="replace", input_size=16)
    torch.manual_seed(0)
    attached: Any = attach(model, attention, placement="replace", input_size=16)
    assert type(attached[1].body) is nn.Sequential
    kind = type(patched.get_submodule(f"1.body.{attention}"))
    assert [type(each) for each in attached[1].body].index(kind) == at
    ran: list[nn.Module] = []
    for each in (patched, attached):
        each.get_submodule(f"1.body.{attention}").register_forward_hook(lambda gate, *_: ran.append(gate))
    assert torch.equal(attached(x), patched(x))
    assert len(ran) == 2
    bare = detach(attached)
    assert torch.equal(bare(x), model(x))
    assert list(bare.state_dict()) == list(model.state_dict())


class ChannelGate(nn.Module):
    """RCAN's, as an element of the Sequential that makes the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.weigh = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x * self.weigh(self.pool(x))
        return out


def test_a_gate_that_is_an_element_is_replaced_by_one(tmp_path: Path) -> None:
    blocks = [Around(nn.Sequential(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16), ChannelGate())) for _ in range(2)]
    model = nn.Sequential(toys.conv(16, 16), *blocks).eval()
    torch.manual_seed(0)
    patched = inject(model, "eca", existing="replace", input_size=SIZE)
    torch.manual_seed(0)
    attached: Any = attach(model, "eca", existing="replace", input_size=SIZE)
    assert [name for name, _ in attached[1].body.named_children()] == ["0", "1", "2", "eca"]
    save(attached, tmp_path / "net.pt")
    for each in (attached, load(tmp_path / "net.pt", model, form="module"), load(tmp_path / "net.pt", model)):
        assert torch.equal(each.eval()(X), patched(X))
        assert toys.gates_run(each, X) == 2
        assert each.state_dict().keys() == patched.state_dict().keys()
    bare = detach(pickle.loads(pickle.dumps(attached)))  # ours
    assert torch.equal(bare(X), model(X))
    assert list(bare.state_dict()) == list(model.state_dict())
