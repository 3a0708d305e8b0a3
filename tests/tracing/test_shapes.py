"""Shapes on meta tensors: what a graph gives, which input sizes are tried, which node does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import TraceError
from attn_inject.tracing.inputs import Inputs
from attn_inject.tracing.nodes import has_value, value_of
from attn_inject.tracing.propagation import propagate
from attn_inject.tracing.shapes import annotate
from attn_inject.tracing.trace import Trace, trace

from .. import toys


def _traced(*layers: nn.Module) -> Trace:
    return trace(nn.Sequential(*layers), modes=("eval",))


def test_every_node_knows_its_value_and_nothing_is_computed() -> None:
    model = nn.Sequential(toys.conv(3, 8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    traced = trace(model, modes=("train",))
    traced.skeleton.train()
    image = torch.empty(2, 3, 8, 8, device="meta")
    out = propagate(traced.skeleton, traced.graphs["train"], (image,))
    assert (tuple(out.shape), out.device.type) == ((2, 8), "meta")
    shapes = [tuple(value_of(node).shape) for node in traced.graphs["train"].nodes]
    assert shapes == [(2, 3, 8, 8), (2, 8, 8, 8), (2, 8, 8, 8), (2, 8, 1, 1), (2, 8), (2, 8)]
    norm: Any = model[1]
    assert norm.num_batches_tracked == 0
    assert norm.weight.device.type == "cpu"


def test_a_tied_weight_is_one_value() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, self.w

    traced = trace(Tied(), modes=("eval",))
    graph = traced.graphs["eval"]
    assert propagate(traced.skeleton, graph, (torch.empty(2, device="meta"),))[1].shape == (3,)


@pytest.mark.parametrize(
    ("inputs", "shape", "reason"),
    [
        ((torch.zeros(2, 4, 8, 8),), "(2, 4, 8, 8)", "node _0 (0) does not run on an input of shape (2, 4, 8, 8): "),
        ((torch.zeros(2, 3, 2, 2),), "(2, 3, 2, 2)", "node _1 (1) does not run on an input of shape (2, 3, 2, 2): "),
    ],
)
def test_the_node_that_does_not_fit_is_named(inputs: tuple[Any, ...], shape: str, reason: str) -> None:
    traced = _traced(toys.conv(3, 8), nn.Conv2d(8, 8, 5))
    with pytest.raises(TraceError) as caught:
        annotate(traced, inputs=Inputs(inputs))
    assert str(caught.value).startswith(reason)
    assert str(caught.value).endswith("; pass another input_size, or example_inputs")
    assert "\n" not in str(caught.value)


def test_a_norm_of_another_width_is_named() -> None:
    with pytest.raises(TraceError) as caught:
        annotate(_traced(toys.conv(3, 8), nn.BatchNorm2d(4)), input_size=(3, 8, 8))
    assert str(caught.value) == (
        "node _1 (1) does not run on an input of shape (2, 3, 8, 8): expected 4 channels, got 8; "
        "pass another input_size, or example_inputs"
    )


def test_the_first_size_that_runs_through_is_taken() -> None:
    model = nn.Sequential(toys.conv(3, 8), nn.Flatten(), nn.Linear(8 * 32 * 32, 2))
    traced = annotate(trace(model, modes=("eval",)))
    assert traced.input_shape == (2, 3, 32, 32)
    assert all(has_value(node) for node in traced.graphs["eval"].nodes)
    with pytest.raises(TraceError, match=r"node _2 \(2\) does not run on an input of shape \(2, 3, 224, 224\)"):
        annotate(_traced(toys.conv(3, 8), nn.Flatten(), nn.Linear(7, 2)))


@pytest.mark.parametrize("size", [(3, 0, 8), (3, -1, 8), (3, 2**21, 2**21)])
def test_sizes_that_no_network_takes(size: tuple[int, ...]) -> None:
    with pytest.raises(TraceError) as caught:
        annotate(_traced(toys.conv(3, 8)), input_size=size)
    shape = "x".join(map(str, size))
    assert str(caught.value) == f"no network takes an input of shape {shape}: choose another input_size"


def test_the_inputs_dtype_is_the_models() -> None:
    traced = annotate(trace(toys.conv(3, 8).double(), modes=("eval",)), input_size=(3, 8, 8))
    assert traced.inputs.values[0].dtype is torch.float64
