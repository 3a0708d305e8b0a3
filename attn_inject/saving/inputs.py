"""What a model with several, named or structured inputs was traced on, as a record keeps it: sizes and types.

{"positional": [{"tensor": [2, 3, 64, 64], "dtype": "float32"}, {"plain": 0.5}],
 "named": {"maps": {"list": [...]}, "batch": {"table": {"mask": {"tensor": [2, 1, 64, 64], "dtype": "bool"}}}}}

No torch in here until inputs are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import PlanError
from ..planning.tables import named_values, one_of, plain, positive, read_table, text, tuple_of
from ..tracing.input_forms import DTYPES

if TYPE_CHECKING:
    from torch import nn

    from ..tracing.inputs import Inputs

_MAX_LEVELS = 5
_MAX_RANK = 8
_MAX_PARTS = 200
_MAX_ELEMENTS = 2**40


def inputs_to_plain(inputs: Inputs, model: nn.Module) -> dict[str, Any] | None:
    """The inputs of `model` as JSON has them; None for images as they would be made for the model anew by the size that
    the plan has, and for what is not made of plain parts.
    """
    try:
        made = {
            "positional": [_to_plain(value) for value in inputs.positional],
            "named": {name: _to_plain(value) for name, value in inputs.named.items()},
        }
    except TypeError:
        return None
    return None if _are_usual_images(inputs, model) else made


def _are_usual_images(inputs: Inputs, model: nn.Module) -> bool:
    from ..tracing.inputs import dtype_of
    from ..tracing.usual_sizes import candidate_shapes, first_convolution

    if inputs.named or len(inputs.positional) != 1 or len(inputs.tensors) != 1:
        return False
    (image,) = inputs.tensors
    if image is not inputs.positional[0] or image.dim() < 2 or image.dtype != dtype_of(model):
        return False
    made = candidate_shapes(model, first_convolution(model), tuple(image.shape[1:]))
    return made[0] == tuple(image.shape)


def _to_plain(value: Any) -> dict[str, Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_to_plain(part) for part in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"table": {key: _to_plain(part) for key, part in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    raise TypeError(f"{type(value).__name__} is no plain part of an input")


def inputs_from_plain(made: Mapping[str, Any]) -> Inputs:
    """The inputs, on the meta device, from what `checked_inputs` let through."""
    from ..tracing.inputs import Inputs

    return Inputs(
        tuple(_from_plain(value) for value in made["positional"]),
        {name: _from_plain(value) for name, value in made["named"].items()},
    )


def _from_plain(value: Mapping[str, Any]) -> Any:
    import torch

    if "tensor" in value:
        return torch.empty(value["tensor"], dtype=getattr(torch, value["dtype"]), device="meta")
    ((kind, held),) = value.items()
    if kind == "plain":
        return held
    if kind == "table":
        return {key: _from_plain(part) for key, part in held.items()}
    parts = [_from_plain(part) for part in held]
    return tuple(parts) if kind == "tuple" else parts


def described(made: Mapping[str, Any]) -> tuple[str, ...]:
    """The tensors, each with its place, size (batch included) and type: `batch.mask 2x1x64x64 bool`."""
    parts = [("", value) for value in made["positional"]] + list(made["named"].items())
    return tuple(line for name, value in parts for line in _lines(name, value))


def _lines(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    if "tensor" in value:
        yield " ".join(filter(None, [name, "x".join(map(str, value["tensor"])), value["dtype"]]))
        return
    ((kind, held),) = value.items()
    if kind != "plain":
        for key, part in held.items() if kind == "table" else enumerate(held):
            yield from _lines(f"{name}.{key}".removeprefix("."), part)


def checked_inputs(where: str, value: Any) -> dict[str, Any]:
    """The inputs in a record, still plain.

    Raises:
        PlanError: they are none.

    """
    readers = {"positional": tuple_of(_part, most=_MAX_PARTS), "named": _parts}
    return {"positional": (), "named": {}, **read_table(where, value, readers, ())}


def _parts(where: str, value: Any, level: int = 1) -> dict[str, Any]:
    table = named_values(where, value)
    if len(table) > _MAX_PARTS:
        raise PlanError(f"{where} has more than {_MAX_PARTS} parts")
    return {text(where, key): _part(f"{where} {key[:60]}", part, level) for key, part in table.items()}


def _part(where: str, value: Any, level: int = 1) -> dict[str, Any]:
    table = named_values(where, value)
    if level > _MAX_LEVELS:
        raise PlanError(f"{where} is nested beyond any use")
    if set(table) == {"tensor", "dtype"}:
        shape = tuple_of(positive, most=_MAX_RANK)(where, table["tensor"])
        if prod(shape) > _MAX_ELEMENTS:
            raise PlanError(f"{where} is larger than any input")
        return {"tensor": shape, "dtype": one_of(DTYPES)(f"{where} dtype", table["dtype"])}
    kind, held = next(iter(table.items())) if len(table) == 1 else ("", None)
    if kind == "plain":
        return {kind: plain(where, held)}
    if kind == "table":
        return {kind: _parts(where, held, level + 1)}
    if kind in ("list", "tuple"):
        return {kind: tuple_of(lambda place, part: _part(place, part, level + 1), most=_MAX_PARTS)(where, held)}
    raise PlanError(f"{where} must be a tensor with its dtype, a list, a tuple, a table or a plain value")
