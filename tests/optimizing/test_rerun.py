"""Under autocast a gate runs again in the backward pass: as it was in the forward pass, and to nobody's notice."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call

from attn_inject import inject, optimize_training
from attn_inject.attention.gating import ChannelGate


class Dropping(ChannelGate):
    """Draws numbers, and has a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm1d(channels)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(self.norm(self.fc(pooled)), 0.5, training=self.training)


def _pair(attention: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    patched = inject(torchvision.models.resnet18(num_classes=5), attention).train()
    return copy.deepcopy(patched), optimize_training(patched).train()


def _loss(
    model: nn.Module, x: torch.Tensor, weights: dict[str, torch.Tensor] | None = None, *, cast: bool = True
) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        out: torch.Tensor = model(x) if weights is None else functional_call(model, weights, (x,))
    return out.float().square().mean()


def _of_gates(model: nn.Module) -> list[str]:
    return [
        name for name, _ in model.named_parameters() if any(f".{kind}." in name for kind in ("se", "srm", "dropping"))
    ]


def _must_be_as_near(found: list[torch.Tensor], usual: list[torch.Tensor], exact: list[torch.Tensor]) -> None:
    """Two runs in bfloat16 differ by what each is from one in float32."""
    far = [sum(float((a - b).square().sum()) for a, b in zip(each, exact, strict=True)) for each in (found, usual)]
    assert far[0] < 2 * far[1] + 1e-12


@pytest.mark.parametrize("attention", ["se", "srm", Dropping])
@pytest.mark.slow
def test_statistics_and_gradients(attention: object) -> None:
    patched, fast = _pair(attention)
    exact = copy.deepcopy(patched)
    x = torch.randn(4, 3, 64, 64)
    for model in (patched, fast, exact):
        _loss(model, x, cast=model is not exact).backward()
    counts = [name for name, _ in fast.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(fast.get_buffer(name) == 1 for name in counts)
    names = [name for name, held in fast.named_buffers() if held.is_floating_point()]
    _must_be_as_near(*([model.get_buffer(name) for name in names] for model in (fast, patched, exact)))
    gates = _of_gates(fast)
    _must_be_as_near(*([model.get_parameter(name).grad for name in gates] for model in (fast, patched, exact)))


def test_weights_that_a_call_was_given() -> None:
    """`functional_call` puts others in the model's places while it runs, and the model's are there again after it."""
    patched, fast = _pair("se")
    torch.manual_seed(2)
    x = torch.randn(4, 3, 64, 64)
    moved = {name: (p + 0.2 * torch.randn_like(p)).detach() for name, p in patched.named_parameters()}
    grads = []
    for model, cast in ((fast, True), (patched, True), (patched, False)):
        given = {name: tensor.clone().requires_grad_() for name, tensor in moved.items()}
        _loss(model, x, given, cast=cast).backward()
        grads.append([given[name].grad for name in _of_gates(model)])
    _must_be_as_near(*grads)


def test_weights_that_are_written_in_between_are_found_out() -> None:
    _, fast = _pair("se")
    loss = _loss(fast, torch.randn(4, 3, 64, 64))
    with torch.no_grad():
        fast.get_parameter("layer1.0.se.fc1.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_of_gradients() -> None:
    patched, fast = _pair("se")
    x = torch.randn(4, 3, 64, 64)
    grads = []
    for model, cast in ((fast, True), (patched, True), (patched, False)):
        weights = [model.get_parameter(name) for name in _of_gates(model)]
        first = torch.autograd.grad(_loss(model, x, cast=cast), weights, create_graph=True)
        grads.append(list(torch.autograd.grad(sum(g.square().sum() for g in first), weights)))
    _must_be_as_near(*grads)
