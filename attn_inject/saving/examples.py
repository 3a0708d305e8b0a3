"""Real inputs to export a patched model with: what it was traced on, or, around patched parts, what the whole takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..errors import CheckpointError
from ..tracing.calls import usual_inputs
from ..tracing.inputs import Inputs, inputs_of
from ..tracing.parts import patched_parts


def example_inputs_of(patched: nn.Module) -> Inputs:
    """Inputs on the model's device and in its precision.

    The model may have been made `half()` since; an export for inputs of the old precision could not be run.

    Raises:
        CheckpointError: the model was never traced with shapes, or what is around its parts takes no usual image.

    """
    device = next((p.device for p in patched.parameters()), torch.device("cpu"))
    precisions = {p.dtype for p in patched.parameters() if p.is_floating_point()}
    own = precisions.pop() if len(precisions) == 1 else None
    found = (inputs.real(device, own) for inputs in _to_try(patched))
    if "" in patched_parts(patched):
        return next(found)
    for inputs in found:
        try:
            with torch.no_grad():
                inputs.given_to(patched)
        except Exception:  # What it minds in these, it may not mind in the next.
            continue
        return inputs
    raise CheckpointError(
        "the model around the patched parts runs on no image of a usual size: export it with torch.export yourself"
    )


def _to_try(patched: nn.Module) -> Iterator[Inputs]:
    for part in patched_parts(patched).values():
        inputs = inputs_of(part.graph_of("eval"))
        if inputs is None:
            raise CheckpointError("the model was never traced with shapes: inject into it again before exporting it")
        yield inputs
    yield from usual_inputs(patched)
