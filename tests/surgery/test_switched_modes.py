"""Models that switch the mode of their parts while they run: a frozen teacher, dropout that stays on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, find_sites, inject, load, save

from .. import toys

SIZE = (16, 4, 4)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            toys.Residual(toys.conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout2d(0.3), toys.conv(16, 16))
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x))
        return out.relu()


class Frozen(Blocks):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.first.eval()
        return super().forward(x)


class FlagSet(Blocks):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.second.branch[1].training = False
        return super().forward(x)


class AlwaysDrops(Blocks):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.second.branch[3].train()
        return super().forward(x)


class TwoPasses(Blocks):
    """Compares what it gives with what it gives without noise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        was, noisy = self.training, super().forward(x)
        self.eval()
        clean = super().forward(x)
        self.train(was)
        return noisy - clean


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training and len(x) == 1 else super().forward(x)


class OwnNorms(Frozen):
    def __init__(self) -> None:
        super().__init__()
        self.first.branch[1] = OwnNorm(16)


class Attending(nn.Module):
    """A layer of torch's that holds others, and asks for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.3, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        self.attention.eval()
        tokens = self.block(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0]


def _seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind()


def _run(model: nn.Module, *, train: bool) -> torch.Tensor:
    torch.manual_seed(2)
    out: torch.Tensor = model.train(train)(IMAGE)
    return out


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("kind", [Frozen, FlagSet, AlwaysDrops, TwoPasses, OwnNorms, Attending])
@pytest.mark.slow
def test_layers_run_in_the_mode_that_the_code_says(form: Any, kind: type[nn.Module], tmp_path: Path) -> None:
    model = _seeded(kind)
    sites = find_sites(model, input_size=SIZE)
    count = len(sites)
    # One asks for the size of a batch itself; a layer with parts decides on ranks.
    assert sites.guards == () or kind in (Attending, OwnNorms)
    patched = form(copy.deepcopy(model), "se", input_size=SIZE, reduction=4, init="identity")
    assert toys.gates_run(copy.deepcopy(patched), IMAGE) >= count > 0
    save(patched, tmp_path / "net.pt")
    again = load(tmp_path / "net.pt", model=_seeded(kind))
    for train in (True, False, True):
        expected = _run(model, train=train)
        assert torch.equal(_run(patched, train=train), expected)
        assert torch.equal(_run(again, train=train), expected)
    moved = [name for name, held in model.named_buffers() if not torch.equal(held, patched.state_dict()[name])]
    assert moved == []


class FreezesLater(Blocks):
    """A norm that has run is another one in the next call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        self.first.branch[1].eval()
        return out


def test_a_mode_for_the_calls_to_come_has_no_graph() -> None:
    with pytest.raises(TraceError, match=r"switches the mode of a layer that has run.*attach\(\) needs no graph"):
        inject(FreezesLater(), "se", input_size=SIZE, reduction=4)
    model = _seeded(FreezesLater)
    attached = attach(copy.deepcopy(model), "se", input_size=SIZE, reduction=4, init="identity")
    for _ in range(2):
        assert torch.equal(_run(attached, train=True), _run(model, train=True))
    assert not attached.first.branch[1].training
