"""The same model again over the same weights, for work that must leave the caller's as it is."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

from .inputs import tensors_in


def alias(model: nn.Module) -> nn.Module:
    """The same modules again over the same storage: new `Parameter` objects that share memory, shared buffers.

    Modes, flags, hooks and children can be changed on the alias without the original noticing; no weight is copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = _alias_parameter(parameter)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    for module in model.modules():
        if callable(shared := getattr(type(module), "shared_by_aliases", None)):
            memo.update({id(value): value for value in shared(module)})
    # Every module has a dozen empty tables for hooks, whose copies would take most of the time.
    for module in model.modules():
        empty = [value for value in vars(module).values() if type(value) is OrderedDict and not value]
        memo.update({id(table): OrderedDict() for table in empty})
    # Gradients and non-leaf tensors kept as plain attributes cannot be deep-copied; they are shared instead.
    for module in model.modules():
        for tensor in tensors_in(list(vars(module).values())):
            if tensor.grad_fn is not None:
                memo[id(tensor)] = tensor
    return copy.deepcopy(model, memo)


def _alias_parameter(parameter: nn.Parameter) -> nn.Parameter:
    if type(parameter) is not nn.Parameter:
        return parameter
    aliased = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    vars(aliased).update(vars(parameter))
    return aliased
