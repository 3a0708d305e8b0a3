"""A model's fingerprint and the versions at work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject.surgery import provenance
from attn_inject.surgery.provenance import fingerprint, versions


def net(first: str = "a", second: str = "b", out: int = 4, *, bias: bool = True) -> nn.Module:
    return nn.ModuleDict({first: nn.Linear(2, 3), second: nn.Linear(3, out, bias=bias)})


def test_a_fingerprint_is_of_names_and_shapes_in_order() -> None:
    text = "a.weight:(3, 2);a.bias:(3,);b.weight:(4, 3);b.bias:(4,);"
    assert fingerprint(net()) == hashlib.sha256(text.encode()).hexdigest()


def _with_buffer(persistent: bool) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = net()
        model.register_buffer("table", torch.zeros(2), persistent=persistent)
        return model

    return make


def _swapped() -> nn.Module:
    """The same names and shapes in another order."""
    model, given = nn.ModuleDict(), net()
    for name in ("b", "a"):
        model[name] = given.get_submodule(name)
    return model


@pytest.mark.parametrize(
    "make",
    [lambda: net("x"), lambda: net(out=5), lambda: net(bias=False), _swapped, _with_buffer(True)],
)
def test_another_structure_has_another_fingerprint(make: Callable[[], nn.Module]) -> None:
    assert fingerprint(make()) != fingerprint(net())


@pytest.mark.parametrize("make", [net, lambda: net().double(), lambda: net().to("meta"), _with_buffer(False)])
def test_values_types_and_places_are_not_in_it(make: Callable[[], nn.Module]) -> None:
    assert fingerprint(make()) == fingerprint(net())


class Noted(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"steps": 1}


def test_what_is_no_tensor_is_not_in_it() -> None:
    plain, noted = net(), net()
    noted["b"] = Noted(3, 4)
    assert "b._extra_state" in noted.state_dict()
    assert fingerprint(noted) == fingerprint(plain)


def test_the_versions_are_those_installed() -> None:
    names = ("attn-inject", "torch", "torchvision", "timm")
    assert versions() == {name: metadata.version(name) for name in names}
    assert list(versions()) == list(names)


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("attn-inject", "torchvision"):
            raise metadata.PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(provenance, "_installed", provenance._installed.__wrapped__)  # not what was asked before
    assert versions() == {"torch": "torch 1", "timm": "timm 1"}
