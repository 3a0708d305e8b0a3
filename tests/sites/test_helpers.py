"""An add in a module that holds nothing, and that several blocks call, is a site of the block that called it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import apply_plan, attach, find_sites, inject, load, make_plan, remove, save

from ..toys import conv, gates_run

SIZE = (3, 16, 16)
IMAGE = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


class _Add(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class _Weighted(_Add):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))


class _Block(nn.Module):
    def __init__(self, width: int, add: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.add = conv(width, width), conv(width, width), add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add(x, self.b(torch.relu(self.a(x))))


class _Net(nn.Module):
    """Two widths, and one module that adds for all."""

    def __init__(self, add: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.stem, self.down, self.times = conv(3, 16), nn.Conv2d(16, 32, 3, 2, 1), times
        self.blocks, self.last = nn.Sequential(_Block(16, add), _Block(16, add)), _Block(32, add)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        x = self.down(x)
        for _ in range(self.times):
            x = self.last(x)
        return x


class _Flat(nn.Module):
    """No blocks: the model itself calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.add = conv(3, 16), _Add()
        self.branches = nn.ModuleList(nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = self.add(x, branch(x))
        return x


def _places(model: nn.Module) -> list[tuple[str, int, int]]:
    return [(site.block, site.channels, site.calls) for site in find_sites(model, input_size=SIZE)]


def test_each_block_has_a_site_of_its_own() -> None:
    assert _places(_Net(_Add())) == [("blocks.0", 16, 1), ("blocks.1", 16, 1), ("last", 32, 1)]
    # A block that runs several times shares its attention still.
    assert _places(_Net(_Add(), times=3)) == [("blocks.0", 16, 1), ("blocks.1", 16, 1), ("last", 32, 3)]
    assert _places(_Flat()) == [("", 16, 1), ("", 16, 1)]


def test_what_one_block_alone_calls_or_what_holds_weights_is_a_block() -> None:
    alone = nn.Sequential(conv(3, 16), _Block(16, _Add()), _Block(16, _Add()))
    assert _places(alone) == [("1.add", 16, 1), ("2.add", 16, 1)]
    shared = _Weighted()
    assert _places(nn.Sequential(conv(3, 16), _Block(16, shared), _Block(16, shared))) == [("1.add", 16, 2)]


@pytest.mark.parametrize("model", [_Net(_Add(), times=2), _Flat()])
@pytest.mark.parametrize("make", [inject, attach])
@pytest.mark.slow
def test_both_forms_gate_every_block_with_its_own(make: Any, model: nn.Module, tmp_path: Path) -> None:
    model = model.eval()
    same = make(model, "se", reduction=4, init="identity", input_size=SIZE)
    assert torch.equal(same(IMAGE), model(IMAGE))
    patched = make(model, "se", reduction=4, input_size=SIZE)
    names = [insertion.module for insertion in patched.injection.plan.insertions]
    assert names == (["se", "se2"] if isinstance(model, _Flat) else ["blocks.0.se", "blocks.1.se", "last.se"])
    assert gates_run(patched, IMAGE) == len(_places(model)) + (not isinstance(model, _Flat))
    save(patched, tmp_path / "m.pt")
    for form in ("graph", "module"):
        assert torch.equal(load(tmp_path / "m.pt", model, form=form)(IMAGE), patched(IMAGE))


@pytest.mark.parametrize("again", [lambda patched: patched, lambda patched: pickle.loads(pickle.dumps(patched))])
def test_a_patched_graph_knows_whose_adds_they_are(again: Any) -> None:
    model = _Net(_Add()).eval()
    patched = inject(model, "se", reduction=4, input_size=SIZE, include="blocks.*")
    second = inject(again(patched), "eca", input_size=SIZE)
    names = [insertion.module for insertion in second.injection.plan.insertions]
    assert names == ["blocks.0.se", "blocks.1.se", "last.eca"]
    assert gates_run(second.eval(), IMAGE) == 3
    bare = inject(remove(patched), "eca", input_size=SIZE)
    assert [insertion.module for insertion in bare.injection.plan.insertions] == [
        *("blocks.0.eca", "blocks.1.eca", "last.eca")
    ]


def test_a_plan_from_when_they_were_the_helpers_still_fits() -> None:
    model = _Flat().eval()
    plan = make_plan(model, "se", reduction=4, input_size=SIZE)
    first = plan.insertions[0]
    once = replace(first, site=replace(first.site, block="add", calls=2), module="add.se")
    patched = apply_plan(model, replace(plan, insertions=(once,)))
    assert gates_run(patched.eval(), IMAGE) == 2
