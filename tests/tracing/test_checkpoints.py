"""A graph keeps what a checkpoint would work out again, and says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import checkpoint

from attn_inject import attach, inject
from attn_inject.surgery.records import records_of
from attn_inject.tracing.checkpoints import checkpoint_losses

from ..toys import conv

SIZE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self, *, thrifty: bool) -> None:
        super().__init__()
        self.a, self.b, self.thrifty = conv(16, 16), conv(16, 16), thrifty

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.thrifty and self.training:
            return x + checkpoint.checkpoint(self.branch, x, use_reentrant=False)
        return x + self.branch(x)


def _net(*, thrifty: bool) -> nn.Module:
    return nn.Sequential(conv(3, 16), Block(thrifty=thrifty), Block(thrifty=thrifty), nn.Flatten(), nn.Linear(4096, 4))


@pytest.mark.parametrize("patch", [inject, attach])
def test_checkpoints_that_were_on_are_said_to_be_gone(patch: Any) -> None:
    seams = [saved_tensors_hooks.__enter__, dict(vars(checkpoint))]
    lost = [loss for loss in _lost(patch(_net(thrifty=True), "se", input_size=SIZE)) if "checkpoint" in loss]
    assert lost == ["activation checkpointing, which was on in 1, 2: what it would work out again is kept"]
    assert seams == [saved_tensors_hooks.__enter__, dict(vars(checkpoint))]
    assert not [loss for loss in _lost(patch(_net(thrifty=False), "se", input_size=SIZE)) if "checkpoint" in loss]


def _lost(patched: nn.Module) -> tuple[str, ...]:
    return tuple(loss for _, record in records_of(patched) for loss in record.not_kept)


def test_many_are_counted() -> None:
    assert checkpoint_losses(()) == ()
    (lost,) = checkpoint_losses(["a", "b", "a", "c", "d", "e"])
    assert "was on in a, b, c and 2 more:" in lost
