"""Buffers that code gives a new value while it trains: running means, ranges, momentum, as people write them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject, load, save

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


class Ranged(toys.Residual):
    """Divides by the largest value that it has seen."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.largest: torch.Tensor
        self.register_buffer("largest", torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.largest = 0.9 * self.largest + 0.1 * x.detach().abs().max()
        return x + self.branch(x / self.largest)


class ReadBefore(Ranged):
    """What it divides by is wanted in the backward pass, after it has a new value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x + self.branch(x / self.largest)
        if self.training:
            self.largest = 0.9 * self.largest + 0.1 * x.detach().abs().max()
        return out


class InPlace(Ranged):
    """A single number, written in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.largest.mul_(0.9).add_(0.1 * x.detach().abs().max())
        return x + self.branch(x / self.largest)


class Kept(Ranged):
    """What was seen last, for whoever wants to look at it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest = x.detach().abs().max()
        return x + self.branch(x)


class Twice(nn.Module):
    """A shared block runs twice in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Ranged((16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(self.block(x))
        return out


KINDS: dict[str, Any] = {
    "a number": Ranged,
    "of one element": lambda: Ranged((1,)),
    "a number for each channel": lambda: Ranged((16, 1, 1)),
    "read before": ReadBefore,
    "in place": InPlace,
    "only written": Kept,
    "in two calls": Twice,
}


def _made(kind: str) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(toys.conv(16, 16), KINDS[kind]())


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("kind", KINDS)
def test_new_values_are_those_of_the_model(kind: str, form: Any, tmp_path: Path) -> None:
    model, given = _made(kind), _made(kind)
    patched = form(given, "se", input_size=SIZE, reduction=4, init="identity", copy=True)
    assert all(map(torch.equal, given.state_dict().values(), model.state_dict().values()))
    save(patched, tmp_path / "net.pt")
    loaded = [load(tmp_path / "net.pt", _made(kind), form=each) for each in ("graph", "module")]
    for each in (patched, *loaded):
        assert toys.gates_run(copy.deepcopy(each), IMAGE) == (2 if kind == "in two calls" else 1)
        own = copy.deepcopy(model)
        for train in (True, True, False, True):
            expected = own.train(train)(IMAGE)
            out = each.train(train)(IMAGE)
            assert torch.equal(out, expected)
            out.square().sum().backward()
        held = each.state_dict()
        assert all(torch.equal(held[name], buffer) for name, buffer in own.named_buffers())
        assert not any(buffer.requires_grad for buffer in each.buffers())


class Growing(Ranged):
    """Of another size after each call."""

    def __init__(self) -> None:
        super().__init__((1,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x + self.branch(x / self.largest.mean())
        if self.training:
            self.largest = torch.cat([self.largest, x.detach().abs().amax().reshape(1)])
        return out


def test_a_buffer_that_grows_stays_under_attach() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(toys.conv(16, 16), Growing())
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity", copy=True).train()
    for _ in range(3):
        assert torch.equal(attached(IMAGE), model(IMAGE))
    assert attached[1].largest.shape == (4,)
