"""Settings that `copy.deepcopy` refuses are shared, and constants of classes that no file holds stay the class's."""

from __future__ import annotations

import copy
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, inject

from .. import toys

HELD: dict[str, Callable[[Any], Any]] = {
    "keys": lambda model: model.layers.keys(),
    "lock": lambda _model: threading.Lock(),
    "locks": lambda _model: {"all": [threading.Lock()], "size": [3]},
    "generator": lambda _model: (letter for letter in "ab"),
    "package": lambda _model: torch,
}


class Holder(nn.Module):
    def __init__(self, hold: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"8": toys.conv(16, 16), "4": toys.conv(16, 16)})
        self.held = hold(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers["4"](self.layers["8"](x).relu())


@pytest.mark.parametrize("name", HELD)
def test_what_cannot_be_copied_is_shared(name: str) -> None:
    x = torch.randn(2, 16, 8, 8)
    model = Holder(HELD[name])
    assert len(find_sites(model, example_inputs=x)) == 1
    for put in (inject, attach):
        patched = put(model, "se", example_inputs=x, reduction=4, init="identity", copy=True)
        assert torch.equal(patched.eval()(x), model.eval()(x))
        assert toys.gates_run(patched, x) == 1


def test_what_can_be_copied_beside_it_is() -> None:
    model = Holder(HELD["locks"])
    patched: Any = inject(model, "se", example_inputs=torch.randn(2, 16, 8, 8), reduction=4, copy=True)
    assert patched.held["all"][0] is model.held["all"][0]
    assert patched.held["size"] == [3]
    assert patched.held["size"] is not model.held["size"]


class Base(ABC, nn.Module):
    lock = threading.Lock()
    names = ("a", "b")

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...


class Whole(Base):
    def __init__(self) -> None:
        super().__init__()
        self.block = Holder(lambda _model: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return y


@pytest.mark.parametrize("put", [inject, attach])
def test_abstract_classes(put: Any) -> None:
    x = torch.randn(2, 16, 8, 8)
    patched = put(Whole().eval(), "se", example_inputs=x, reduction=4).eval()
    assert patched.names == ("a", "b")
    for other in (copy.deepcopy(patched), pickle.loads(pickle.dumps(patched))):
        assert torch.equal(other(x), patched(x))
        assert toys.gates_run(other, x) == 1
