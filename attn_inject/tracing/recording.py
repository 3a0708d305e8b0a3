"""What has no graph is recorded: the data flow of one run, good for finding sites and for `attach`.

Code that decides on the data (a detector's selection of boxes), computes in numpy, or draws numbers has no graph that
is right for every input. Its modules are called all the same, and one run shows which value goes where (`watching.py`),
of an alias in eval mode.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import islice

import torch
from torch import nn
from torch.utils._pytree import tree_map

from ..errors import TraceError
from .explain import CodeError
from .given_numbers import whole_numbers
from .inputs import Inputs
from .shapes import inputs_to_try
from .trace import Subject, Trace

_TRIALS = 4


def record(model: nn.Module, inputs: Inputs | None, reason: TraceError, *, whole: Collection[str] = ()) -> Trace:
    """The data flow of one run of `model` in eval mode, on random values in the shapes of `inputs` or of a usual size.

    `whole` are paths of submodules that stay single calls.

    Raises:
        TraceError: `reason`, why there is no graph, if the model does not run either.

    """
    subject = Subject(_with_weights(model), whole)
    tried = [inputs] if inputs is not None else inputs_to_try(subject.skeleton)
    for given in islice(tried, _TRIALS):
        draft = subject.watched(real_inputs(given, subject.skeleton))
        if draft is None:
            continue
        # Not the whole sentence: looking for parts that trace takes as long again.
        why = reason.stopped if isinstance(reason, CodeError) else str(reason).split("; ")[0]
        return replace(subject.trace_of({"eval": draft}, given.on_meta()), recorded=why)
    raise reason


def _with_weights(model: nn.Module) -> nn.Module:
    """The model, or, if it has shapes only, the same on the CPU with random weights."""
    if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return model
    filled = Subject(model).skeleton.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in (*filled.parameters(), *filled.buffers()):
        if tensor.is_floating_point():
            tensor.detach().normal_(0, 0.02, generator=generator).abs_()
        else:
            tensor.zero_()
    return filled


def real_inputs(inputs: Inputs, model: nn.Module) -> Inputs:
    """The values that `model` is recorded on, which has shapes as `inputs` has them."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return inputs.map(lambda value: _real(value, device, inputs.batch))


def _real(value: object, device: torch.device, images: int) -> object:
    """Random values of the same shapes, on the model's device; the same every time. Whole numbers are as given."""
    generator = torch.Generator().manual_seed(0)

    def filled(part: object) -> object:
        if not isinstance(part, torch.Tensor):
            return part
        if not part.is_floating_point():
            return whole_numbers(part, images).to(device)
        return torch.rand(part.shape, generator=generator, device="cpu").to(device=device, dtype=part.dtype)

    return tree_map(filled, value)
