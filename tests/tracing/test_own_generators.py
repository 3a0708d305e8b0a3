"""Random generators that a model has of its own: no graph draws from them, and no reading of the model does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, find_sites, inject
from attn_inject.tracing.draws import own_generators

from .. import toys
from ..toys import Residual

SIZE = (16, 8, 8)
OF_THE_FILE = np.random.RandomState(3)

# Each with how to make it, and what is drawn from it.
GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "torch": (lambda: torch.Generator().manual_seed(1), lambda it: torch.rand((), generator=it).item()),
    "python": (lambda: random.Random(1), lambda it: it.random()),
    "numpy": (lambda: np.random.default_rng(1), lambda it: it.random()),
    "older numpy": (lambda: np.random.RandomState(1), lambda it: it.rand()),
    "of the file": (lambda: None, lambda _: OF_THE_FILE.rand()),
    "in a list": (lambda: [random.Random(1)], lambda it: it[0].random()),
}


class Noisy(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        make, self.draw = GENERATORS[kind]
        self.own = make()
        self.block = Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) * (2 if self.draw(self.own) < 0.5 else 3)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.slow
def test_no_graph_holds_a_draw_and_no_reading_draws(kind: str) -> None:
    model, other = Noisy(kind), Noisy(kind)
    if kind == "of the file":
        OF_THE_FILE.seed(3)
    assert [site.block for site in find_sites(model, input_size=SIZE)] == ["block"]
    with pytest.raises(TraceError, match=r"generator of its own.* attach\(\)"):
        inject(model, "se", input_size=SIZE)
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity")
    assert toys.gates_run(attached, torch.rand(2, *SIZE)) == 1
    if kind == "of the file":
        OF_THE_FILE.seed(3)
    numbers = [other.draw(other.own) for _ in range(4)]
    if kind == "of the file":
        OF_THE_FILE.seed(3)
    assert [model.draw(model.own) for _ in range(4)] == numbers


def test_the_systems_numbers_have_no_state() -> None:
    model: Any = Noisy("python")
    model.own = random.SystemRandom()
    assert own_generators(model) == [OF_THE_FILE]


def test_noise_by_a_generator_is_recorded() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = torch.Generator().manual_seed(1)
            self.block = Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x * torch.rand(x.shape, generator=self.own))

    sites = find_sites(Net(), input_size=SIZE)
    assert [site.block for site in sites] == ["block"]
    assert "draws from a generator of its own" in sites.recorded
    assert toys.gates_run(attach(Net(), "se", input_size=SIZE, reduction=4), torch.rand(2, *SIZE)) == 1
