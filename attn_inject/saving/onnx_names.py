"""What the tensors of an `.onnx` are called: `input` and `output`, or as the model has them; its open axis: `batch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..tracing.inputs import Inputs, Signature, tensor_paths

_BATCH = "batch"


def name_tensors(graph: Any, model: nn.Module, inputs: Inputs, outputs: Any) -> None:
    """Rename inputs, outputs and the open axis of an exported graph (an `onnx_ir.Graph`), in place.

    `outputs` are what the model gives on `inputs`, for the names of their parts.
    """
    inner = [*graph.initializers.values(), *(made for node in graph for made in node.outputs)]
    _rename(graph.inputs, _input_names(model, inputs), inner)
    _rename(graph.outputs, _output_names(outputs), inner)
    symbols = {str(axis) for value in graph.inputs for axis in value.shape if not isinstance(axis, int)}
    if len(symbols) != 1:
        return
    for value in [*graph.inputs, *inner]:
        for place, axis in enumerate(value.shape or ()):
            if str(axis) in symbols:
                value.shape[place] = _BATCH


def _rename(values: Sequence[Any], names: Sequence[str], inner: Sequence[Any]) -> None:
    """Give the names, if there is one for each; whatever else in the graph has one of them gets another."""
    if len(values) != len(names) or len(set(names)) != len(names):
        return
    for value in inner:
        if value.name in names and not any(value is each for each in values):
            value.name = f"{value.name}_inner"
    for value, name in zip(values, names, strict=True):
        value.name = name


def _input_names(model: nn.Module, inputs: Inputs) -> list[str]:
    if len(inputs.tensors) == 1:
        return ["input"]
    positional = [name for name, _ in Signature.of(model.forward, inputs).positional]
    named = {**dict(zip(positional, inputs.positional, strict=False)), **inputs.named}
    return [path for argument, value in named.items() for path, _ in tensor_paths(argument, value)]


def _output_names(outputs: Any) -> list[str]:
    return [path for path, _ in tensor_paths("" if isinstance(outputs, Mapping) else "output", outputs)]
