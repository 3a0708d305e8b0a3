"""The input shapes that are tried where nobody says which one a model takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from attn_inject.tracing.shapes import annotate, trace_at_a_size
from attn_inject.tracing.trace import trace
from attn_inject.tracing.usual_sizes import candidate_shapes, first_convolution

from .. import toys


def _candidates(model: nn.Module, input_size: Any = None) -> list[tuple[int, ...]]:
    return candidate_shapes(model, first_convolution(model), input_size)


@pytest.mark.parametrize(
    ("layer", "input_size", "shape"),
    [
        (toys.conv(5, 8), 8, (2, 5, 8, 8)),
        (toys.conv(5, 8), (8,), (2, 5, 8, 8)),
        (toys.conv(5, 8), (8, 4), (2, 5, 8, 4)),
        (toys.conv(5, 8), (1, 8, 4), (2, 1, 8, 4)),
        (toys.conv(5, 8, d=1), (8,), (2, 5, 8)),
        (toys.conv(5, 8, d=3), (8,), (2, 5, 8, 8, 8)),
        (nn.ReLU(), (8,), (2, 3, 8, 8)),
    ],
)
def test_an_input_size_is_completed(layer: nn.Module, input_size: Any, shape: tuple[int, ...]) -> None:
    assert _candidates(layer, input_size) == [shape]


def test_sizes_that_are_tried() -> None:
    sizes = (224, 256, 299, 32, 28, 64, 384, 512)
    assert _candidates(toys.conv(5, 8)) == [(2, c, s, s) for c in (5, 3, 1) for s in sizes]
    assert _candidates(toys.conv(3, 8)) == [(2, c, s, s) for c in (3, 1) for s in sizes]
    assert _candidates(toys.conv(1, 8, d=1)) == [(2, c, s) for c in (1, 3) for s in (1024, 224, 128, 16000)]
    assert _candidates(toys.conv(3, 8, d=3)) == [
        (2, c, frames, s, s) for c in (3, 1) for s in (112, 32, 224, 64) for frames in (16, 32)
    ]


@pytest.mark.parametrize("config", [{"input_size": (3, 48, 40)}, SimpleNamespace(input_size=(3, 48, 40))])
@pytest.mark.parametrize("name", ["pretrained_cfg", "default_cfg"])
def test_the_configured_size_comes_first(name: str, config: Any) -> None:
    model = nn.Sequential(toys.conv(3, 8))
    setattr(model, name, config)
    traced = trace(model, modes=("eval",))
    assert _candidates(model)[:2] == [(2, 3, 48, 40), (2, 3, 224, 224)]
    assert annotate(traced).input_shape == (2, 3, 48, 40)


def test_the_convolution_that_runs_first_says_what_an_image_is() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = toys.conv(8, 4, d=1), toys.conv(5, 8)

        def forward(self, x: Any) -> Any:
            return self.last(self.first(x).flatten(2))

    assert trace_at_a_size(Reversed()).input_shape == (2, 5, 224, 224)
