"""How often the gates run, in models of odd inputs, hooks and code: made by both verbs, copied, saved and loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, inject, load, save

from .. import toys
from ..sites.test_trained import Frozen
from ..tracing.test_bare import ByCalls, Called, Net, OnNumbers, Twice
from ..tracing.test_given_numbers import Packed
from ..tracing.test_lengths import BY_SIZE, STRUCTURES, Given, OfTheBatch, Parts
from .test_collected import Collecting, Hook, InTheirDict, WithHelper
from .test_momentum import IMAGES, Momentum


class Scaled(nn.Module):
    """Its forward calls the object what it likes, and takes a number by position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 16, 1), toys.Block(toys.SPELLINGS["+"])

    def forward(this, x: torch.Tensor, by: int = 1) -> torch.Tensor:  # noqa: N805
        return this.block(this.stem(x)) * by


class Halves(nn.Module):
    """A reversible block that splits and joins within itself."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = (nn.Sequential(toys.conv(8, 8), nn.ReLU(), toys.conv(8, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 1)
        a = a + self.f(b)
        return torch.cat([a, b + self.g(a)], 1)


IMAGE = torch.randn(2, 3, 16, 16)
VIEWS = STRUCTURES["a list"]
# A model, what it is given, how often its gates run, and whether it has a graph.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], int, bool]] = {
    "a list of two": (lambda: Given(VIEWS[0]), (VIEWS[1],), 2, True),
    "a dict of two": (lambda: Given(STRUCTURES["items"][0]), (STRUCTURES["items"][1],), 2, True),
    "parts of a split": (lambda: Parts(BY_SIZE["split"]), (IMAGE,), 1, True),
    "hooks that collect": (Collecting, (IMAGE,), 2, True),
    "hooks that collect in their dict": (InTheirDict, (IMAGE,), 2, True),
    "a frozen teacher": (Frozen, (IMAGE,), 2, True),
    "two encoders": (Momentum, IMAGES, 2, False),
    "packed sequences": (Packed, (torch.randn(2, 4, 12), torch.tensor([7, 12])), 1, False),
    "another name for self": (Scaled, (IMAGE, 1), 1, True),
    "called by name": (Net, (IMAGE,), 2, True),
    "called by name and not": (Twice, (IMAGE,), 4, True),
    "called by name, without a graph": (lambda: Net(OnNumbers), (IMAGE,), 2, False),
    "by a call of their own": (lambda: ByCalls(Called), (IMAGE,), 2, True),
    "the length of a batch": (lambda: OfTheBatch("view"), (IMAGE,), 1, True),
    "hooks that store on objects": (lambda: WithHelper(Hook, decides=False), (IMAGE,), 2, True),
    "reversible": (lambda: toys.Toy(nn.Sequential(Halves(), Halves())), (IMAGE,), 4, True),
}


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_each_gate_runs_as_often_as_its_block(name: str, form: Any, tmp_path: Path) -> None:
    make, given, count, has_graph = MODELS[name]
    torch.manual_seed(0)
    model = make()
    if form is inject and not has_graph:
        with pytest.raises(TraceError, match="cannot be traced"):
            inject(model, "eca", example_inputs=given)
        return
    patched = form(model, "eca", example_inputs=given)
    save(patched, tmp_path / "model.pt")
    loaded: Any = load
    # A file has the sizes of lengths, and not the lengths.
    again = {"example_inputs": given} if name == "packed sequences" else {}
    made: dict[str, nn.Module] = {
        "as made": patched,
        "loaded": loaded(tmp_path / "model.pt", make(), form="graph" if form is inject else "module", **again),
    }
    # Of a model whose hooks are closures, `copy.deepcopy` makes one whose hooks are still the original's.
    if form is inject or not name.startswith("hooks"):
        made |= {"copied": copy.deepcopy(patched), "in double": copy.deepcopy(patched).double()}
    for how, each in made.items():
        inputs = torch.utils._pytree.tree_map_only(torch.Tensor, _in_double, given) if how == "in double" else given
        for mode in (True, False):
            assert toys.gates_run(each.train(mode), *inputs) == count, (how, mode)


def _in_double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
