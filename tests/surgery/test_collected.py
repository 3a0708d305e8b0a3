"""Models whose hooks collect what their forward goes on with, on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject
from tests.toys import Residual


def _block() -> nn.Module:
    return Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


class Collecting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), _block(), _block())
        self.head = nn.Conv2d(16, 2, 1)
        self.maps: Any = {}
        for number in (1, 2):
            self.net[number].register_forward_hook(self.collecting(number))

    def collecting(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            self.maps[number] = out

        return hook

    def collected(self) -> list[torch.Tensor]:
        return [self.maps[1], self.maps[2]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.net(x)
        return self.head(torch.cat(self.collected(), 1))


class InTheirDict(Collecting):
    def collecting(self, number: int) -> Callable[..., None]:
        maps = self.maps

        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            maps[number] = out

        return hook


class ByAMethod(Collecting):
    def keep(self, module: nn.Module, _args: Any, out: torch.Tensor) -> None:
        self.maps[module.number] = out

    def collecting(self, number: int) -> Callable[..., None]:
        self.net[number].number = number  # type: ignore[assignment]
        return self.keep


class AsAttributes(Collecting):
    def collecting(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            setattr(self, f"map{number}", out)

        return hook

    def collected(self) -> list[torch.Tensor]:
        return [getattr(self, f"map{number}") for number in (1, 2)]


class InAList(Collecting):
    def collecting(self, number: int) -> Callable[..., None]:  # in their order
        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            self.maps.append(out)

        return hook

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps = []
        return super().forward(x)

    def collected(self) -> list[torch.Tensor]:
        return list(self.maps)


class Cleared(Collecting):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps.clear()
        return super().forward(x)


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("kind", [Collecting, InTheirDict, ByAMethod, AsAttributes, InAList, Cleared])
def test_what_hooks_collect_is_of_the_pass(kind: type[Collecting], has_run: bool, form: Any) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    if has_run:
        model(torch.randn(1, 3, 8, 8))
    held = dict(model.maps) if isinstance(model.maps, dict) else list(model.maps)
    patched = form(model, "eca", init="identity", example_inputs=torch.randn(1, 3, 8, 8)).eval()
    assert [one.site.block for one in patched.injection.plan.insertions] == ["net.1", "net.2"]
    assert patched.injection.verification.passed
    # What the caller's own hooks have collected stays what they have collected.
    assert model.maps == held
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(patched(x), model(x))
