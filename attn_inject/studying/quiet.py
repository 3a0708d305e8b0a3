"""A model that is run to be looked at, and is afterwards as it was: its modes, its forwards, and the generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError, first_line
from ..tracing.draws import Draws, drawn_apart
from .feeds import Batch


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back, and what is drawn in here is taken back."""
    modes = {module: module.training for module in model.modules()}
    try:
        with undrawn(model), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def undrawn(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Take back what is drawn in here, on the model's devices too, from a seed if there is one."""
    with drawn_apart([parameter.device for parameter in model.parameters()], seed), Draws.of(model).undone():
        yield


@contextmanager
def exchanged(forwards: Mapping[nn.Module, Callable[[torch.Tensor], torch.Tensor]]) -> Iterator[None]:
    """Let modules compute something else meanwhile."""
    own: dict[nn.Module, Any] = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in own.items():
            vars(module).pop("forward")
            if forward is not None:
                vars(module)["forward"] = forward


def run(model: nn.Module, batch: Batch) -> Any:
    """What the model gives.

    Raises:
        AttnInjectError: it does not run on the batch.

    """
    try:
        return batch.inputs.given_to(model)
    except (AttnInjectError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise AttnInjectError(f"the model does not run on the data: {first_line(error)}") from error
