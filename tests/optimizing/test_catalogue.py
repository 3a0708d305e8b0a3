"""Every attention of the catalogue in networks that are optimized: what a gate's maths allow is done, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from attn_inject import inject, optimize, optimize_training

from ..attention.written import shaken

SIZE = (3, 40, 40)
# name: (options, pooled early, adds fused, gates that a kernel may open), of the two bottlenecks of `network`.
DONE: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "lct": ({"groups": 8}, 2, 2, 2),
    # Its last step is an exponential.
    "gaussian-gct": ({"learn": True}, 2, 2, 0),
    "ge": ({}, 2, 2, 2),
    # Its channels take sixteen linear pools.
    "fca": ({}, 2, 2, 2),
    # What these pool is not linear in the map.
    "srm": ({}, 0, 2, 2),
    "gct": ({}, 0, 2, 2),
    # These are no gates.
    "nam": ({}, 0, 0, 0),
    "sge": ({"groups": 8}, 0, 0, 0),
    "gam": ({"kernel": 3}, 0, 0, 0),
    "mlca": ({}, 0, 0, 0),
    "gc": ({}, 0, 0, 0),
    "double": ({}, 0, 0, 0),
}


GATES = ("lct", "gaussian-gct", "ge", "fca", "srm", "gct")
# Nothing is rewritten at the others but the norms around them: with the sweeps.
CASES = [pytest.param(name, marks=[pytest.mark.zoo] * (name not in GATES)) for name in DONE]


def network() -> nn.Module:
    torch.manual_seed(0)
    net = ResNet(Bottleneck, [1, 1, 0, 0], num_classes=5)
    net.layer3, net.layer4 = nn.Identity(), nn.Identity()
    net.fc = nn.Linear(128 * Bottleneck.expansion, 5)
    return net


def patched_with(name: str) -> Any:
    """A network with attention whose every number was drawn; in float64."""
    return shaken(inject(network(), name, input_size=SIZE, **DONE[name][0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_optimized_is_the_same(name: str) -> None:
    patched = patched_with(name)
    fast = optimize(patched)
    done = fast.rewritten
    assert (done.pooled_early, done.adds_fused, done.gates_in_kernels) == DONE[name][1:]
    x = torch.randn(2, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        expected = patched(x)
        assert (fast(x) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_optimized_training_is_the_same(name: str) -> None:
    patched = patched_with(name).train()
    fast = optimize_training(patched)
    x = torch.randn(3, *SIZE, dtype=torch.float64)
    results = []
    for model in (patched, fast):
        state = {key: value.clone() for key, value in patched.state_dict().items()}
        patched.zero_grad()
        y = model.train()(x)
        (y * torch.arange(5)).sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in patched.parameters())])
        patched.load_state_dict(state)
    for plain, faster in zip(*results, strict=True):
        assert (plain - faster).abs().max() <= 1e-8 * max(1.0, float(plain.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gct", "srm", "fca", "gaussian-gct"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_that_work_in_float32_go_into_maps_of_half_precision(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    patched = inject(network(), name, input_size=SIZE, **DONE[name][0]).eval().to(dtype)
    x = torch.randn(2, *SIZE).to(dtype)
    with torch.no_grad():
        expected = patched(x)
        y = optimize(patched)(x)
    assert y.dtype == dtype
    assert (y - expected).float().abs().max() <= 0.05 * expected.float().abs().max()
