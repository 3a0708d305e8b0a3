"""What torch's own functions give, known by the metadata of what they get: shapes, strides and dtypes.

torch works out in Python what an operation on meta tensors gives, which takes most of the time of reading a network,
and a network asks for the same again in each of its blocks, and in both of its modes. So torch is asked once for each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode


class Metadata(NamedTuple):
    """All that a dense meta tensor is."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Metadata:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def empty(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class _Value(NamedTuple):
    """Anything else. 1, 1.0 and True are equal, but do not give the same dtype."""

    kind: type[Any]
    value: Any


class _NotKnown(Exception):  # noqa: N818  # nothing is wrong
    """Something that is given is more than metadata say."""


def _both(*names: str) -> set[Any]:
    """These functions of torch, and the tensors' methods of the same names."""
    return {getattr(home, name) for home in (torch, torch.Tensor) for name in names}


# They make a new tensor of what they are given, whose metadata follow from theirs.
FOLLOWING: frozenset[Any] = frozenset({
    *_both("add", "sub", "mul", "div", "pow", "matmul", "bmm", "sqrt", "exp", "mean", "sum"),
    *_both("relu", "sigmoid", "tanh", "softmax", "clamp"), torch.cat, torch.stack,
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, pow, operator.matmul,
    F.gelu, F.silu, F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.softmax, F.softplus, F.elu, F.leaky_relu, F.mish,
    F.layer_norm, F.group_norm, F.batch_norm, F.instance_norm, F.rms_norm, F.normalize, F.linear, F.conv1d, F.conv2d,
    F.conv3d, F.scaled_dot_product_attention, F.avg_pool2d, F.interpolate,
})  # fmt: skip


# Their outputs look like their inputs.
_KEEP_SHAPE = frozenset({
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity,
})  # fmt: skip
_OF_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_OF_CONVOLUTION = ("weight", "bias", "stride", "padding", "dilation", "groups")
# torch's layers that are one function each: its arguments behind the input, by their names.
_LAYERS: dict[type[nn.Module], tuple[Callable[..., Any], tuple[str, ...]]] = {
    nn.Linear: (F.linear, ("weight", "bias")),
    nn.LayerNorm: (F.layer_norm, ("normalized_shape", "weight", "bias", "eps")),
    nn.GroupNorm: (F.group_norm, ("num_groups", "weight", "bias", "eps")),
    nn.Conv1d: (F.conv1d, _OF_CONVOLUTION),
    nn.Conv2d: (F.conv2d, _OF_CONVOLUTION),
    nn.Conv3d: (F.conv3d, _OF_CONVOLUTION),
}


LAYERS = _KEEP_SHAPE | _LAYERS.keys()


def following(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a function of `FOLLOWING` gives, from memory where the metadata of all that it gets are known."""
    made = _remembered(function, args, kwargs)
    return function(*args, **kwargs) if made is None else made


def of_layer(layer: nn.Module, x: Any) -> torch.Tensor | None:
    """What one of `LAYERS` gives, wherever its weights are; None where it is not one that its class tells all of."""
    if type(layer) not in LAYERS or "forward" in vars(layer) or getattr(layer, "padding_mode", "zeros") != "zeros":
        return None
    if not isinstance(x, torch.Tensor):
        return None  # an identity hands on whatever it is given
    if type(layer) in _KEEP_SHAPE:
        width = getattr(layer, "num_features", None)
        with torch._C.DisableTorchFunction():
            if width is not None and x.shape[1] != width:
                raise ValueError(f"expected {width} channels, got {x.shape[1]}")
            return torch.empty_like(x)
    function, names = _LAYERS[type(layer)]
    held = [getattr(layer, name) for name in names]
    return _remembered(function, (x, *(Metadata.of(v) if isinstance(v, torch.Tensor) else v for v in held)), {})


def _remembered(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    if not any(isinstance(value, (torch.Tensor, list, tuple)) for value in (*args, *kwargs.values())):
        return None  # numbers, which `operator` adds too
    # Whatever follows the model's code would be asked for each shape and stride.
    with torch._C.DisableTorchFunction():
        try:
            made = _made(function, _described(args), _described(tuple(kwargs.items())), torch.get_default_dtype())
        except _NotKnown:
            return None
        return None if made is None else made.empty()


def _described(value: Any) -> Any:
    if isinstance(value, Metadata):
        return value
    if isinstance(value, torch.Tensor):
        if not value.is_meta or value.dtype.is_complex or type(value) not in (torch.Tensor, nn.Parameter):
            raise _NotKnown
        return Metadata.of(value)
    if isinstance(value, (tuple, list)):
        return _Value(type(value), tuple(_described(part) for part in value))
    if value is None or isinstance(value, (int, float, str, torch.dtype)):
        return _Value(type(value), value)
    raise _NotKnown


def _restored(described: Any) -> Any:
    if isinstance(described, Metadata):
        return described.empty()
    if issubclass(described.kind, (tuple, list)):
        parts = [_restored(part) for part in described.value]
        return parts if issubclass(described.kind, list) else tuple(parts)
    return described.value


@lru_cache(maxsize=16384)
def _made(function: Callable[..., Any], args: Any, kwargs: Any, _default: torch.dtype) -> Metadata | None:
    """None where the result is not one new tensor: an activation in place gives back what it was given."""
    given, named = _restored(args), dict(_restored(kwargs))
    with torch.no_grad():
        made = (_batch_norm if function is F.batch_norm else function)(*given, **named)
    if type(made) is not torch.Tensor or not made.is_meta or any(made is each for each in (*given, *named.values())):
        return None
    return Metadata.of(made)


def _batch_norm(*args: Any, **kwargs: Any) -> torch.Tensor:
    """As torch's own, which takes long even on meta tensors, while most widths and sizes are met in one block only."""
    given = dict(zip(_OF_BATCH_NORM, args, strict=False)) | kwargs
    x: torch.Tensor = given["input"]
    held = next((tensor for name in ("running_mean", "weight") if (tensor := given.get(name)) is not None), None)
    if held is None or x.dim() < 2 or x.shape[1] != held.numel():
        return F.batch_norm(*args, **kwargs)
    if given.get("training", False):
        F._verify_batch_size(list(x.shape))  # type: ignore[attr-defined]  # as it does itself
    return torch.empty_like(x)


class Remembered(TorchFunctionMode):
    """Within it, the functions of `FOLLOWING` answer from memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return following(func, args, kwargs or {}) if func in FOLLOWING else func(*args, **(kwargs or {}))
