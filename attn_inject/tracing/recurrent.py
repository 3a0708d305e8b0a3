"""What torch's recurrent layers give on the meta device, where torch goes through a sequence step by step in Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_FORWARDS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


def of_one_step(layer: nn.RNNBase, x: Any, *state: Any, **named: Any) -> tuple[torch.Tensor, Any] | None:
    """The output for a whole sequence `x` and the last state, from one step; None where `layer` is not of torch's.

    All steps give the same shape, and time is the outermost axis of the memory of what they give.

    Raises:
        RuntimeError, ValueError: as the layer itself, where shapes do not go together.

    """
    if getattr(layer.forward, "__func__", None) not in _FORWARDS:
        return None
    if type(x) is not torch.Tensor or x.dim() not in (2, 3):
        return None
    axis = 1 if layer.batch_first and x.dim() == 3 else 0
    steps = x.shape[axis]
    if steps < 2:
        return None
    out, last = layer.forward(x.narrow(axis, 0, 1), *state, **named)
    shape = list(out.shape)
    shape[axis] = steps
    return torch.empty_strided(shape, out.stride(), dtype=out.dtype, device=out.device), last
