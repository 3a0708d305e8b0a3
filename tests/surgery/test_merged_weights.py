"""Layers that merge their weights into another's `.data` in every run, as super-resolution networks do (SPAN)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, find_sites, inject, optimize
from tests import toys


class Merged(nn.Module):
    """Two branches when it trains; one convolution, made of both in every run, when it does not."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = toys.conv(channels, channels), toys.conv(channels, channels, 1)
        self.both = toys.conv(channels, channels)

    def merge(self) -> None:
        self.both.weight.data = self.wide.weight.data + nn.functional.pad(self.narrow.weight.data, (1, 1, 1, 1))
        self.both.bias.data = (self.wide.bias + self.narrow.bias).detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.wide(x) + self.narrow(x)
        self.merge()
        return self.both(x)


def _model() -> nn.Module:
    torch.manual_seed(0)
    blocks = [toys.Residual(Merged(16), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(toys.conv(3, 16), *blocks).eval()


X = torch.rand(2, 3, 12, 12)


@pytest.mark.parametrize("make", [inject, attach])
@pytest.mark.parametrize("has_run", [False, True])
def test_what_is_learned_is_merged_anew(make: Callable[..., nn.Module], has_run: bool) -> None:
    model = _model()
    if has_run:
        model(X)
    before = copy.deepcopy(model.state_dict())
    assert [site.block for site in find_sites(model, example_inputs=X)] == ["1", "2"]
    patched = make(model, "eca", example_inputs=X, init="identity", copy=True).eval()
    assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())
    assert torch.equal(patched(X), model(X))
    assert toys.gates_run(patched, X) == 2
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "both" not in name:
                weight.add_(0.1)
                patched.get_parameter(name).copy_(weight)
    assert torch.equal(patched(X), model(X))
    assert torch.equal(patched.train()(X), model.train()(X))


def test_an_optimized_graph_gives_the_same() -> None:
    model = _model()
    norm = nn.BatchNorm2d(16).eval()
    for held in norm.state_dict().values():
        held.copy_(torch.rand(16) + 0.5 if held.dim() else held)
    model[1].branch.insert(1, norm)
    patched = inject(model, "se", reduction=4, example_inputs=X).eval()
    fast = optimize(patched)
    assert torch.allclose(fast(X), patched(X), atol=1e-5)
    assert fast.rewritten.norms_folded == 0


class Tied(nn.Module):
    """A convolution with a norm behind it, whose weights are used once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = toys.conv(16, 16), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(torch.relu(self.norm(self.conv(x))), self.conv.weight, padding=1)


def test_weights_that_the_graph_reads_itself_are_not_folded() -> None:
    tied = Tied()
    for held in tied.norm.state_dict().values():
        held.copy_(torch.rand(16) + 0.5 if held.dim() else held)
    model = nn.Sequential(toys.conv(3, 16), toys.Residual(tied, nn.ReLU())).eval()
    patched = inject(model, "se", reduction=4, example_inputs=X).eval()
    fast = optimize(patched)
    assert torch.allclose(fast(X), patched(X), atol=1e-5)
    assert fast.rewritten.norms_folded == 0


class Reset(nn.Module):
    """Gives a map other numbers by `.data`, while a part of it has the old ones."""

    def __init__(self, shape_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.shape_of = toys.conv(16, 16), shape_of

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = x[:, :8]
        out = self.conv(x)
        part.data = self.shape_of(out[:, :8]) * 2
        return x + torch.relu(torch.cat([part, out[:, 8:]], 1))


def test_a_map_that_gets_other_data_has_it_from_there_on() -> None:
    model = nn.Sequential(toys.conv(3, 16), Reset(lambda out: out)).eval()
    patched = inject(model, "eca", example_inputs=X, init="identity").eval()
    assert torch.equal(patched(X), model(X))
    assert toys.gates_run(patched, X) == 1


def test_data_of_another_shape_has_no_graph() -> None:
    model = nn.Sequential(toys.conv(3, 16), Reset(lambda out: out[:, :, :1])).eval()
    with pytest.raises(TraceError, match="it gives a tensor other data of another shape"):
        inject(model, "eca", example_inputs=X)
