"""Regions without gradients and with other types: the patched network has them where the model has."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import inject
from attn_inject.tracing.regions import is_region

from ..toys import conv


class Regions(nn.Module):
    """A block whose parts run in regions of their own."""

    def __init__(self, enter: Any) -> None:
        super().__init__()
        self.enter = enter
        self.stem = conv(3, 16)
        self.body = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.enter():
            x = self.stem(x).float()
        return x + self.body(x)


def _no_grad() -> Any:
    return torch.no_grad()


def _bfloat16() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _no_autocast() -> Any:
    return torch.autocast("cpu", enabled=False)


def _patched(enter: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Regions(enter)
    return model, inject(model, "se", reduction=4, init="identity", input_size=16)


def test_no_gradient_reaches_what_runs_without() -> None:
    model, patched = _patched(_no_grad)
    image = torch.randn(2, 3, 16, 16)
    for net in (model, patched):
        net.train()(image).sum().backward()
        assert net.get_submodule("stem")._parameters["weight"].grad is None
        assert net.get_submodule("body.0")._parameters["weight"].grad is not None
    assert torch.is_grad_enabled()


def test_gradients_stay_off_outside() -> None:
    _, patched = _patched(_no_grad)
    with torch.no_grad():
        assert not patched(torch.randn(2, 3, 16, 16)).requires_grad
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("enter", [_bfloat16, _no_autocast])
@pytest.mark.parametrize("outside", [False, True])
def test_autocast(enter: Any, outside: bool) -> None:
    model, patched = _patched(enter)
    image = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside), torch.no_grad():
        assert torch.equal(patched.eval()(image), model.eval()(image))


def test_regions_are_nodes_that_compile() -> None:
    _, patched = _patched(_no_grad)
    assert sum(is_region(node.target) for node in patched.graph.nodes) == 3
    image = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(patched, backend="eager", fullgraph=True)
    assert torch.equal(compiled(image), patched(image))


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode])
def test_inject_within_a_region(region: Any) -> None:
    model = Regions(_no_grad)
    with region():
        patched = inject(model, "se", reduction=4, input_size=16)
    out = patched.train()(torch.randn(2, 3, 16, 16))
    out.sum().backward()
    assert patched.get_submodule("body.0")._parameters["weight"].grad is not None


def test_an_error_within_a_region_ends_it() -> None:
    _, patched = _patched(_no_grad)
    with pytest.raises(RuntimeError):
        patched(torch.randn(2, 4, 16, 16))
    assert torch.is_grad_enabled()


def test_regions_copy_and_pickle() -> None:
    _, patched = _patched(_no_grad)
    image = torch.randn(2, 3, 16, 16)
    for other in (copy.deepcopy(patched), pickle.loads(pickle.dumps(patched))):
        assert torch.equal(other.eval()(image), patched.eval()(image))
