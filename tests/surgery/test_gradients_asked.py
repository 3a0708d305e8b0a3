"""Code that asks whether its input wants a gradient, to decide on a checkpoint, as blocks of many libraries do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from attn_inject import AttnInjectError, GuardError, attach, find_sites, inject

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


class Checkpointed(toys.Residual):
    def __init__(self) -> None:
        super().__init__(toys.conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(), toys.conv(16, 16))

    def _inner(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            return checkpoint.checkpoint(self._inner, x, use_reentrant=False)
        return self._inner(x)


class OfSeveral(Checkpointed):
    """Asks one after the other, and joins what it is given in one way or the other."""

    def _inner(self, *parts: torch.Tensor) -> torch.Tensor:
        return super()._inner(torch.cat(parts, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, :8], x[:, 8:]]
        if any(part.requires_grad for part in parts):
            return checkpoint.checkpoint(self._inner, *parts, use_reentrant=False)
        return super()._inner(torch.cat(parts, 1))


def _made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(toys.conv(16, 16), kind(), kind())


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity"])
@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("kind", [Checkpointed, OfSeveral])
@pytest.mark.slow
def test_what_is_patched_can_be_trained(kind: type[nn.Module], form: Any, placement: Any) -> None:
    model = _made(kind)
    assert find_sites(model, input_size=SIZE).guards == ()
    patched = form(model, "se", input_size=SIZE, reduction=4, init="identity", placement=placement, copy=True).train()
    assert toys.gates_run(copy.deepcopy(patched), IMAGE, gradients=True) == 2
    model.train()
    for _ in range(2):
        out = patched(IMAGE)
        assert torch.equal(out, model(IMAGE))
        out.sum().backward()
    with torch.no_grad():
        assert torch.equal(patched(IMAGE), model(IMAGE))
        assert torch.equal(patched.eval()(IMAGE), model.eval()(IMAGE))
    assert any("activation checkpointing" in loss for loss in patched.injection.not_kept)


class Scales(toys.Residual):
    """Does something else where a gradient is wanted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out * 1.5 if out.requires_grad else out


def test_where_it_matters_there_is_no_graph_for_both() -> None:
    model = nn.Sequential(toys.conv(16, 16), Scales(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)))
    with pytest.raises(GuardError, match="requires_grad"):
        inject(model, "se", input_size=SIZE, reduction=4)
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity", copy=True)
    for train in (True, False):
        assert torch.equal(attached.train(train)(IMAGE), model.train(train)(IMAGE))
    with torch.no_grad():
        assert torch.equal(attached(IMAGE), model(IMAGE))


class OfWeights(toys.Residual):
    """Asks a weight, which may be frozen later."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.branch[0].weight
        return super().forward(x) if weight.requires_grad else super().forward(x.detach())


def test_weights_answer_for_themselves() -> None:
    model = OfWeights(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
    assert [guard.outcome for guard in find_sites(model, input_size=SIZE).guards] == ["True"]
    model.requires_grad_(requires_grad=False)
    try:
        outcomes = [guard.outcome for guard in find_sites(model, input_size=SIZE).guards]
    except AttnInjectError as error:  # pragma: no cover
        raise AssertionError from error
    assert outcomes == ["False"]
