"""Real inputs to export a patched model with: what it was traced on, or, around patched parts, what the whole takes."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import CheckpointError
from ..surgery.attachment import attachments_of
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
    read_on = _read_on(patched)
    if "" in read_on:
        return read_on[""].real(device, own)
    found = (inputs.real(device, own) for inputs in (*read_on.values(), *usual_inputs(patched)))
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


def _read_on(patched: nn.Module) -> dict[str, Inputs]:
    """What each patched part was read on, by its path; the whole has the empty one."""
    if attachments := attachments_of(patched):
        return {each.injection.plan.scope or "": each.inputs for each in attachments}
    read_on = {path: inputs_of(part.graph_of("eval")) for path, part in patched_parts(patched).items()}
    known = {path: inputs for path, inputs in read_on.items() if inputs is not None}
    if known.keys() != read_on.keys():
        raise CheckpointError("the model was never traced with shapes: inject into it again before exporting it")
    return known
