"""Hooks of a model under trace: those that its outputs come through are followed, others have no part in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn

from attn_inject import attach, find_sites, inject, verify

from ..toys import conv


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu, self.conv2 = conv(16, 16), nn.ReLU(), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.relu(self.conv1(x)))


class Store:
    """Keeps what hooks show it, by device, as feature extractors do."""

    def __init__(self) -> None:
        self.kept: dict[Any, list[Any]] = defaultdict(list)

    def note(self, _name: str, *seen: Any) -> None:
        self.kept[seen[-1].device].append(seen[-1])

    def taken(self, device: Any) -> list[Any]:
        kept, self.kept[device] = self.kept[device], []
        return kept


class Featured(nn.Module):
    """Gives what hooks on a block, and on a layer within one, have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 16), nn.Sequential(Block(), Block())
        self.store = Store()
        self.body[0].relu.register_forward_hook(partial(self.store.note, "layer"))
        self.body[1].register_forward_hook(partial(self.store.note, "block"))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.body(self.stem(x))
        return self.store.taken(x.device)


class Capturing(nn.Module):
    """Puts its hooks on when it first runs, and reads what they noted."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 16), nn.Sequential(Block(), Block())
        self.hooked = False
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.hooked:
            for block in self.body:
                block.register_forward_hook(lambda _module, _args, out: self.seen.append(out))
            self.hooked = True
        self.seen.clear()
        self.body(self.stem(x))
        return self.seen[0] * self.seen[1]


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _outputs(model: nn.Module) -> list[torch.Tensor]:
    given = model(IMAGE)
    return list(given) if isinstance(given, (list, tuple)) else [given]


@pytest.mark.parametrize(("kind", "ran_before"), [(Featured, False), (Featured, True), (Capturing, False)])
@pytest.mark.slow
def test_features_that_hooks_collect_are_followed(kind: Callable[[], nn.Module], ran_before: bool) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    gated = inject(model, "eca", input_size=16).eval()
    if ran_before:
        model(IMAGE)
    sites = find_sites(model, input_size=16)
    assert (sites.recorded, [site.block for site in sites]) == ("", ["body.0", "body.1"])
    same = inject(model, "se", reduction=4, init="identity", input_size=16).eval()
    assert "eval equal to the bit" in str(verify(model, same))
    for _ in range(2):
        assert all(map(torch.equal, _outputs(same), _outputs(model)))
    assert not torch.equal(_outputs(gated)[-1], _outputs(model)[-1])


def test_a_hook_that_nothing_hangs_on_is_not_shown_a_trace() -> None:
    model = nn.Sequential(conv(3, 16), Block(), nn.ReLU())
    seen: list[Any] = []
    model[1].register_forward_hook(lambda *given: seen.append(given[-1]))
    model[2].register_forward_pre_hook(lambda *given: seen.append(given[-1][0]))
    inject(model, "eca", input_size=16)
    assert all(type(value) is torch.Tensor for value in seen)
    assert len(model[1]._forward_hooks) == 1


class Collector:
    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def __call__(self, _module: nn.Module, _given: Any, made: torch.Tensor) -> None:
        self.found.append(made)


@dataclass
class Collected:
    maps: tuple[torch.Tensor, ...]


def test_what_hooks_collect_may_be_given_in_an_output_class() -> None:
    class Collecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(3, 16), Block())
            self.collector = Collector()
            self.body.register_forward_hook(self.collector)

        def forward(self, x: torch.Tensor) -> Collected:
            self.collector.found.clear()
            self.body(x)
            return Collected(tuple(self.collector.found))

    assert [site.block for site in find_sites(Collecting(), input_size=16)] == ["body.1"]


def test_hooks_do_not_help_what_cannot_be_followed() -> None:
    class Missing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Block()
            self.body.register_forward_hook(lambda *_: None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) + self.missing

    with pytest.raises(Exception, match="has no attribute 'missing'"):
        find_sites(Missing(), example_inputs=torch.zeros(1, 16, 8, 8))


@pytest.mark.slow
def test_a_zoo_s_features_that_hooks_collect() -> None:
    with torch.device("meta"):
        model = timm.create_model("xception41", features_only=True)
    assert len(find_sites(model, input_size=(3, 64, 64))) == 12
    assert len(attach(Featured(), "eca", input_size=16).eval()(IMAGE)) == 2
