"""Layers say where the channels are only where the map is laid out as they take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, inject
from attn_inject.errors import PlanError

from ..toys import gates_run

UNTOLD = "the channel axis of the branch cannot be told (attention heads, tokens, steps of time, no batch): R1"


def _folding(base: type[nn.Module]) -> type[nn.Module]:
    """A layer that takes steps of time in front of the batch, as spiking networks have them."""

    class Folding(base):  # type: ignore[misc, valid-type]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x.flatten(0, 1))
            return y.view(*x.shape[:2], *y.shape[1:])

    return Folding


class _Tokens(nn.BatchNorm1d):
    """Over (N, L, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class _Last(nn.BatchNorm2d):
    """Over (N, H, W, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Block(nn.Module):
    def __init__(self, conv: Callable[[], nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.norm = conv(), conv(), norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.b(torch.relu(self.a(x))))


class _Turned(nn.Module):
    """A convolution on maps that have their channels last."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.movedim(-1, 1)).movedim(1, -1)


def _conv(base: Any = nn.Conv2d) -> nn.Module:
    made: nn.Module = base(12, 12, 3, padding=1)
    return made


TIME = _folding(nn.Conv2d)


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [
        (lambda: _conv(TIME), _folding(nn.BatchNorm2d)(12), (4, 6, 12, 8, 8)),
        (lambda: _conv(TIME), _folding(nn.BatchNorm2d)(12), (4, 12, 12, 8, 8)),
        (_conv, nn.Identity(), (12, 20, 24)),
        (lambda: _conv(nn.Conv1d), nn.Identity(), (12, 20)),
    ],
)
def test_time_in_front_of_a_batch_and_maps_without_one_are_left_alone(
    conv: Callable[[], nn.Module], norm: nn.Module, shape: tuple[int, ...]
) -> None:
    model, x = _Block(conv, norm), torch.randn(shape)
    found = find_sites(model, example_inputs=x)
    assert not list(found)
    with pytest.raises(PlanError, match="no sites"):
        inject(model, "se", example_inputs=x)
    if len(shape) > 2:
        assert [skipped.reason for skipped in found.skipped] == [UNTOLD]


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [
        (lambda: _Turned(_conv()), _Last(12), (2, 8, 10, 12)),
        (lambda: _Turned(_conv(nn.Conv1d)), _Tokens(12), (2, 16, 12)),
        (_conv, nn.BatchNorm2d(12), (2, 12, 8, 10)),
    ],
)
def test_layers_of_other_layouts_have_their_channels_where_their_count_is(
    conv: Callable[[], nn.Module], norm: nn.Module, shape: tuple[int, ...]
) -> None:
    model, x = _Block(conv, norm), torch.randn(shape)
    (site,) = find_sites(model, example_inputs=x)
    assert site.channels == 12
    assert site.layout == ("channels_last" if shape[-1] == 12 else "channels_first")
    for make in (inject, attach):
        patched = make(model, "se", reduction=4, example_inputs=x).eval()
        assert gates_run(patched, x) == 1
        # No image sees its neighbours.
        torch.testing.assert_close(patched(x)[:1], patched(x[:1]))
