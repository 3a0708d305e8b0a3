"""Real inputs to export a patched model with: what it was traced on, or, around patched parts, what the whole takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..tracing.calls import usual_inputs
from ..tracing.nodes import value_of
from ..tracing.parts import patched_parts


def example_inputs_of(patched: nn.Module) -> tuple[Any, ...]:
    """Inputs on the model's device and in its precision.

    The model may have been made `half()` since; an export for inputs of the old precision could not be run.

    Raises:
        CheckpointError: the model was never traced with shapes, or what is around its parts takes no usual image.

    """
    found = (_real(values, patched) for values in _to_try(patched))
    if "" in patched_parts(patched):
        return next(found)
    for inputs in found:
        try:
            with torch.no_grad():
                patched(*inputs)
        except Exception:  # What it minds in these, it may not mind in the next.
            continue
        return inputs
    raise CheckpointError(
        "the model around the patched parts runs on no image of a usual size: export it with torch.export yourself"
    )


def _to_try(patched: nn.Module) -> Iterator[tuple[Any, ...]]:
    parts = patched_parts(patched)
    for part in parts.values():
        values = tuple(value_of(node) for node in part.graph_of("eval").nodes if node.op == "placeholder")
        if any(value is None for value in values):
            raise CheckpointError("the model was never traced with shapes: inject into it again before exporting it")
        yield values
    yield from (inputs.positional for inputs in usual_inputs(patched) if inputs.positional)


def _real(values: tuple[Any, ...], patched: nn.Module) -> tuple[Any, ...]:
    device = next((p.device for p in patched.parameters()), torch.device("cpu"))
    precisions = {p.dtype for p in patched.parameters() if p.is_floating_point()}
    own = precisions.pop() if len(precisions) == 1 else None
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(value.shape, generator=generator).to(
            device=device, dtype=own if own is not None and value.is_floating_point() else value.dtype
        )
        if isinstance(value, torch.Tensor)
        else value
        for value in values
    )
