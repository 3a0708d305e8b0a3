"""attach: the same class, the attention in its tree, every method aware of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import PlanError, attach, detach, inject

from .. import toys

SIZE = (3, 64, 64)


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        options: dict[str, Any] = {"zero_init_last": False} if "resnet" in name else {}
        return timm.create_model(name.removeprefix("timm:"), **options).eval()
    return torchvision.models.get_model(name).eval()


@pytest.mark.parametrize(
    "name", ["timm:resnet18", "timm:resnet26d", "resnet18", "convnext_tiny", "mobilenet_v2", "squeezenet1_1"]
)
def test_same_class_and_the_outputs_of_inject(name: str) -> None:
    model = _build(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    attached = attach(model, "eca", input_size=SIZE)
    patched = inject(model, "eca", input_size=SIZE).eval()
    assert type(attached) is type(model)
    assert list(attached.state_dict()) == list(patched.state_dict()) or set(attached.state_dict()) == set(
        patched.state_dict()
    )
    patched.load_state_dict(attached.state_dict())
    x = torch.randn(2, *SIZE)
    for twin in (attached, copy.deepcopy(attached), pickle.loads(pickle.dumps(attached))):
        assert torch.equal(twin(x), patched(x))
    assert not torch.equal(attached(x), model(x))
    assert torch.equal(detach(attached)(x), model(x))
    assert list(detach(attached).state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_methods_see_the_attention() -> None:
    model = _build("timm:resnet18")
    attached = attach(model, "se", input_size=SIZE)
    x = torch.randn(1, *SIZE)
    assert not torch.allclose(attached.forward_features(x), model.forward_features(x))
    assert torch.equal(attached.forward_head(attached.forward_features(x)), attached(x))
    assert attached.get_classifier() is attached.fc


def test_training_moves_what_is_new() -> None:
    attached = attach(_build("resnet18"), "se", input_size=SIZE).train()
    attached(torch.randn(2, *SIZE)).sum().backward()
    assert attached.layer1[0].se.fc1.weight.grad is not None


def test_what_cannot_be_reached_is_refused() -> None:
    body = toys.Lambda(lambda m, x: x + torch.tanh(m.a(x)), a=toys.conv(16, 16))
    with pytest.raises(PlanError, match="no module returns the value"):
        attach(toys.Toy(body), "eca", input_size=(3, 16, 16))
    with pytest.raises(PlanError, match="runs its own 'se' at another place"):
        attach(timm.create_model("rexnet_100"), "se", min_width=1, input_size=SIZE)
    with pytest.raises(PlanError, match="nothing was attached"):
        detach(_build("resnet18"))
