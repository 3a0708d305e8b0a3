"""What verbs draw is taken back, and other devices' generators are not touched."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, choose, find_sites, gates, inject, optimize
from attn_inject.tracing.draws import drawn_apart
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source
from tests.toys import SPELLINGS, Block, Toy


def _model() -> nn.Module:
    return nn.Sequential(Toy(Block(SPELLINGS["+"])), nn.Dropout(0.5))


VERBS: dict[str, Callable[[], Any]] = {
    "find_sites": lambda: find_sites(_model()),
    "inject": lambda: inject(_model(), "eca", init="identity"),
    "attach": lambda: attach(_model(), "eca"),
    "optimize": lambda: optimize(inject(_model(), "se", reduction=4).eval()),
    "gates": lambda: gates(inject(_model(), "eca"), [torch.ones(4, 3, 16, 16)]),
    "choose": lambda: choose(
        _model(), ["eca"], [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1])) for _ in range(4)], steps=1, seeds=1
    ),
    "build": lambda: build(parse_source("cifar:resnet20", seed=3)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_generators_of_devices_that_are_not_in_use_are_not_seeded(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` waits for them: what a caller draws there later would come of our seed, not of theirs."""

    def seeded(seed: int) -> None:
        pytest.fail(f"all GPUs are seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    VERBS[verb]()


def test_what_is_drawn_on_a_device_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [torch.Generator(), torch.Generator()]
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(default_generators=held, current_device=lambda: 1))
    devices = [torch.device("cuda", 0), torch.device("cuda"), torch.device("cpu"), torch.device("meta")]
    before = [generator.get_state() for generator in (torch.default_generator, *held)]

    def drawn() -> list[torch.Tensor]:
        return [torch.rand(3, generator=generator) for generator in (None, *held)]

    with drawn_apart(devices, 5):
        first = drawn()
    with drawn_apart(devices, 5):
        assert all(map(torch.equal, drawn(), first))
    with drawn_apart(devices[1:]):
        # Without a seed they go on from where they are.
        assert not torch.equal(drawn()[0], first[0])
    assert all(
        map(torch.equal, (generator.get_state() for generator in (torch.default_generator, held[1])), before[::2])
    )


def test_a_backend_that_shows_no_generator_is_seeded_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "hpu", SimpleNamespace(), raising=False)
    seeds: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    with drawn_apart([torch.device("hpu")]):
        pass
    with drawn_apart([torch.device("hpu"), torch.device("cpu")], 7):
        assert seeds == [7]
