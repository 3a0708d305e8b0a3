"""What a report's models are run on: the inputs asked for, else those of the trace, else what the model is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError
from ..tracing.calls import inputs_in_place
from ..tracing.injected import InjectedModule
from ..tracing.inputs import (
    Inputs,
    Signature,
    chosen_arguments,
    dtype_of,
    given_inputs,
    image,
    inputs_of,
    must_fit,
    tensor_paths,
)
from ..types import Plan
from ..zoo.sizes import input_size as made_for
from .data import InputRow
from .subject import Subject


def report_inputs(
    original: nn.Module,
    part: nn.Module,
    plan: Plan | None,
    *,
    input_size: Sequence[int] | None,
    example_inputs: Any,
) -> Inputs:
    """Inputs on the meta device, floating-point ones in the original's type.

    Raises:
        AttnInjectError: nothing says what the model takes, or an image size for a model with several inputs.

    """
    given = given_inputs(original, example_inputs)
    must_fit(original, given)
    dtype = dtype_of(original)
    if given is None and isinstance(part, InjectedModule):
        given = inputs_of(part.pristine_graph_of("eval"))
        if given is not None:
            given = replace(given, fixed=chosen_arguments(original.forward, part.fixed))
    if given is not None and input_size is None:
        return given.on_meta().map_tensors(lambda x: x.to(dtype) if x.is_floating_point() else x)
    if given is not None and len(given.tensors) > 1:
        raise AttnInjectError("input_size is for models with one input: give example_inputs, with one value for each")
    one = image(*_size(original, plan, input_size), dtype=dtype)
    return one if given is None else given.map_tensors(lambda _: one.tensors[0])


def taken_beside_an_image(whole: nn.Module, subject: Subject) -> Inputs | None:
    """What the model around a part gives it on an image of a usual size, where that is more than one image.

    The image is in the shape that the part was read on.
    """
    called = inputs_in_place(whole, subject.scope)
    if called is None or not (called.fixed or len(called.values) > 1):
        return None
    read_on = None if subject.plan is None else subject.plan.input_shape
    if read_on is None or len(called.tensors) != 1:
        return called
    return called.map_tensors(lambda x: x.new_empty(read_on))


def _size(original: nn.Module, plan: Plan | None, asked: Sequence[int] | None) -> tuple[int, ...]:
    """(channels, *spatial) of one image: as asked for, else as the plan has it, else what the model is made for."""
    if asked is not None:
        return tuple(asked)
    if plan is not None and plan.input_shape is not None:
        return tuple(plan.input_shape[1:])
    size = made_for(original)
    if size is None:
        raise AttnInjectError("the model does not say what input it takes; give input_size=(channels, height, width)")
    return size


def input_rows(model: nn.Module, inputs: Inputs) -> tuple[InputRow, ...]:
    """The tensors among the inputs by the names of the model's arguments; sizes without the batch."""
    positional = [name for name, _ in Signature.of(model.forward, inputs).positional]
    named = {**dict(zip(positional, inputs.positional, strict=False)), **inputs.named}
    return tuple(
        InputRow(
            name,
            tuple(tensor.shape[1:] if _is_batched(tensor, inputs) else tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
        )
        for argument, value in named.items()
        for name, tensor in tensor_paths(argument, value)
    )


def _is_batched(tensor: torch.Tensor, inputs: Inputs) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == inputs.batch
