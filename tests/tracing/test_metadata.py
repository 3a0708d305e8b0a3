"""What is remembered of torch's functions is what torch says: shape, strides and dtype, errors, what works in place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject.tracing import metadata
from attn_inject.tracing.metadata import Metadata, Remembered, following, of_layer
from attn_inject.tracing.nodes import value_of

from ..sites.graphs import Net, read
from ..toys import conv


def meta(*shape: int, layout: str = "contiguous", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.empty(shape, device="meta", dtype=dtype)
    if layout == "channels last":
        return tensor.to(memory_format=torch.channels_last)
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if layout == "permuted" else tensor


CALLS: dict[str, tuple[Any, Callable[[torch.Tensor], tuple[Any, ...]], dict[str, Any]]] = {
    "x + 1": (operator.add, lambda x: (x, 1), {}),
    "x * 0.5": (operator.mul, lambda x: (x, 0.5), {}),
    "x * gate": (operator.mul, lambda x: (x, x.new_empty(2, 6, 1, 1)), {}),
    "x / x": (operator.truediv, lambda x: (x, x), {}),
    "gelu": (F.gelu, lambda x: (x,), {"approximate": "tanh"}),
    "silu": (F.silu, lambda x: (x,), {}),
    "mean": (torch.Tensor.mean, lambda x: (x, (2, 3)), {"keepdim": True}),
    "sum": (torch.sum, lambda x: (x, [2]), {}),
    "softmax": (F.softmax, lambda x: (x, 1), {}),
    "layer norm": (F.layer_norm, lambda x: (x, (8,)), {}),
    "group norm": (F.group_norm, lambda x: (x, 3), {}),
    "batch norm": (F.batch_norm, lambda x: (x, x.new_empty(6), x.new_empty(6)), {}),
    "batch norm, by name": (F.batch_norm, lambda x: (), {"training": True}),
    "linear": (F.linear, lambda x: (x, x.new_empty(5, 8)), {}),
    "convolution": (F.conv2d, lambda x: (x, x.new_empty(4, 3, 3, 3), None, 2, 1, 1, 2), {}),
    "pool": (F.avg_pool2d, lambda x: (x, 2), {}),
    "interpolate": (F.interpolate, lambda x: (x,), {"scale_factor": 2.0, "mode": "nearest"}),
    "attention": (F.scaled_dot_product_attention, lambda x: (x, x, x), {}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "permuted"])
@pytest.mark.parametrize("call", CALLS)
def test_it_is_what_torch_says(call: str, layout: str, dtype: torch.dtype) -> None:
    function, arguments, named = CALLS[call]
    x = meta(2, 6, 4, 8, layout=layout, dtype=dtype)
    if call == "batch norm, by name":
        named = {**named, "input": x, "running_mean": x.new_empty(6), "running_var": x.new_empty(6)}
    expected = Metadata.of(function(*arguments(x), **named))
    for _ in range(2):
        assert Metadata.of(following(function, arguments(x), named)) == expected
    with Remembered():
        assert Metadata.of(function(*arguments(x), **named)) == expected


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 5), nn.LayerNorm(8), nn.GroupNorm(2, 6, affine=False), nn.Conv2d(6, 4, 3, 2, 1, groups=2),
        nn.Conv2d(6, 4, 3, padding="same", bias=False),
    ],
    ids=str,
)  # fmt: skip
def test_a_layer_gives_what_torch_says(layer: nn.Module, layout: str) -> None:
    x = meta(2, 6, 4, 8, layout=layout)
    made = of_layer(layer, x)  # its weights are on the CPU
    assert made is not None
    assert Metadata.of(made) == Metadata.of(layer.to("meta")(x))


def test_other_layers_are_not_known() -> None:
    own = nn.Linear(8, 8)
    own.forward = lambda x: x  # type: ignore[method-assign, assignment]
    for layer in (own, nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), type("Own", (nn.Linear,), {})(8, 8)):
        assert of_layer(layer, meta(2, 6, 4, 8)) is None


def test_an_identity_hands_on_what_is_no_tensor() -> None:
    net = Net(lambda m, x: m.same((x, x))[0] + m.conv(x), same=nn.Identity(), conv=conv(3, 3))
    assert value_of(read(net, (2, 3, 8, 8)).last).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.ReLU, nn.Dropout2d])
def test_a_layer_that_keeps_shapes_does(kind: Any) -> None:
    layer = kind(6) if kind is nn.BatchNorm2d else kind()
    made = of_layer(layer, meta(2, 6, 4, 8, layout="channels last"))
    assert made is not None
    assert Metadata.of(made) == Metadata.of(meta(2, 6, 4, 8, layout="channels last"))
    if kind is nn.BatchNorm2d:
        with pytest.raises(ValueError, match="expected 6 channels, got 5"):
            of_layer(layer, meta(2, 5, 4, 8))


def test_the_same_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def counted(*args: Any) -> Any:
        asked.append(args)
        return F.gelu(*args)

    monkeypatch.setattr(metadata, "FOLLOWING", frozenset({counted}))
    for size in (4, 5, 4, 5):
        following(counted, (meta(1, 3, size, size),), {})
    assert len(asked) == 2


def test_numbers_of_other_types_are_other_numbers() -> None:
    counts = meta(3, dtype=torch.int64)
    assert following(operator.mul, (counts, 1), {}).dtype == torch.int64
    assert following(operator.mul, (counts, 1.0), {}).dtype == torch.float32
    assert following(operator.mul, (counts, True), {}).dtype == torch.int64


def test_what_works_in_place_gives_what_it_was_given() -> None:
    x = meta(2, 3)
    assert following(F.relu, (x,), {"inplace": True}) is x


def test_a_number_that_code_may_ask_for_stays_one() -> None:
    stride = torch.tensor(8)
    assert following(operator.mul, (stride, 2), {}).item() == 16


def test_what_torch_refuses_is_refused() -> None:
    with pytest.raises(RuntimeError):
        following(operator.add, (meta(2, 3), meta(2, 4)), {})
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        following(F.batch_norm, (meta(1, 3, 1, 1), None, None, meta(3), meta(3), True), {})
    with pytest.raises(RuntimeError):
        following(F.batch_norm, (meta(2, 4, 2, 2), meta(3), meta(3)), {})
