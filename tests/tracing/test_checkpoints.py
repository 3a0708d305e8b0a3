"""A graph keeps what a checkpoint would work out again, and says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import checkpoint

from attn_inject import attach, attention_parameters, find_sites, inject, report
from attn_inject.surgery.records import records_of
from attn_inject.tracing.checkpoints import checkpoint_losses

from ..toys import conv

SIZE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self, *, thrifty: bool, reentrant: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.thrifty, self.reentrant = conv(16, 16), conv(16, 16), thrifty, reentrant

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.thrifty and self.training:
            return x + checkpoint.checkpoint(self.branch, x, use_reentrant=self.reentrant)
        return x + self.branch(x)


def _net(*, thrifty: bool, reentrant: bool = False) -> nn.Module:
    blocks = (Block(thrifty=thrifty, reentrant=reentrant) for _ in range(2))
    return nn.Sequential(conv(3, 16), *blocks, nn.Flatten(), nn.Linear(4096, 4))


def _seams() -> list[Any]:
    names = {name: value for name, value in vars(checkpoint).items() if name != "__warningregistry__"}
    return [saved_tensors_hooks.__enter__, names, dict(vars(checkpoint.CheckpointFunction))]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("patch", [inject, attach])
def test_checkpoints_that_were_on_are_said_to_be_gone(patch: Any, reentrant: bool) -> None:
    seams = _seams()
    model = _net(thrifty=True, reentrant=reentrant)
    lost = [loss for loss in _lost(patch(model, "se", input_size=SIZE)) if "checkpoint" in loss]
    assert lost == ["activation checkpointing, which was on in 1, 2: what it would work out again is kept"]
    assert seams == _seams()
    assert not [loss for loss in _lost(patch(_net(thrifty=False), "se", input_size=SIZE)) if "checkpoint" in loss]


def _lost(patched: nn.Module) -> tuple[str, ...]:
    return tuple(loss for _, record in records_of(patched) for loss in record.not_kept)


@pytest.mark.parametrize("patch", [inject, attach])
def test_a_block_within_a_checkpoint_that_is_an_autograd_function_is_gated(patch: Any) -> None:
    model, x = _Always(*(Block(thrifty=False) for _ in range(2))), torch.randn(2, 16, 8, 8, requires_grad=True)
    assert [site.block for site in find_sites(model, input_size=(16, 8, 8))] == ["0", "1"]
    patched = patch(model, "se", input_size=(16, 8, 8), reduction=4, init="identity")
    assert torch.equal(patched(x), model(x))
    patched(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in attention_parameters(patched))


class Doubling(checkpoint.CheckpointFunction):
    """Somebody's own kind, which does more than run what it is given."""

    @staticmethod
    def forward(ctx: Any, run: Any, preserve: bool, *args: Any) -> Any:
        return 2 * checkpoint.CheckpointFunction.forward(ctx, run, preserve, *args)


def test_somebodys_own_kind_of_checkpoint_does_what_it_does() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = Block(thrifty=False), conv(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = Doubling.apply(self.last, True, self.block(x))
            return out

    model, x = Net().eval(), torch.randn(2, 16, 8, 8)
    patched = attach(model, "se", input_size=(16, 8, 8), reduction=4, init="identity").eval()
    with torch.no_grad():
        assert torch.equal(patched(x), model(x))


def test_what_somebody_put_in_its_place_is_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = classmethod(lambda _cls, run, _preserve, *args: run(*args))
    monkeypatch.setattr(checkpoint.CheckpointFunction, "apply", mine, raising=False)
    find_sites(_net(thrifty=True, reentrant=True), input_size=SIZE)
    assert vars(checkpoint.CheckpointFunction)["apply"] is mine


class _Always(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self:
            x = checkpoint.checkpoint(block, x, use_reentrant=True)
        return x


class _Decides(_Always):
    """Has no graph, but a recording."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 1e9 else super().forward(x)


@pytest.mark.filterwarnings("error:None of the inputs")
@pytest.mark.parametrize("patch", [inject, attach])
def test_our_own_runs_say_nothing_of_gradients(patch: Any) -> None:
    model = _Always(*(Block(thrifty=False) for _ in range(2)))
    report(model, patch(model, "se", input_size=(16, 8, 8)), bench=False)
    decides = _Decides(*model)
    report(decides, attach(decides, "se", input_size=(16, 8, 8)), bench=False)


def test_many_are_counted() -> None:
    assert checkpoint_losses(()) == ()
    (lost,) = checkpoint_losses(["a", "b", "a", "c", "d", "e"])
    assert "was on in a, b, c and 2 more:" in lost
