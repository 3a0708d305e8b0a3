"""What a trace takes back: the mode of the model, what its code notes on itself, and its buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .reach import TABLES, is_helper, tables_in


@contextmanager
def as_it_was(skeleton: nn.Module, mode: str) -> Iterator[None]:
    """Put `skeleton` into `mode`, and take back what its code notes on itself, or in its tables, while it is traced."""
    attributes: list[tuple[Any, dict[str, Any]]] = [(module, dict(vars(module))) for module in skeleton.modules()]
    # A module has a score of attributes that every module has: looking through them would take most of the time.
    own = [held[name] for _, held in attributes for name in held.keys() - _BOOKKEEPING]
    helpers = {id(value): value for value in own if is_helper(value)}
    for helper in helpers.values():
        attributes.append((helper, dict(vars(helper))))
        own += vars(helper).values()
    tables = [(table, copy.copy(table)) for value in own if type(value) in TABLES for table in tables_in(value)]
    skeleton.train(mode=mode == "train")
    try:
        yield
    finally:
        for owner, held in attributes:
            vars(owner).clear()
            vars(owner).update(held)
        for table, before in tables:
            table.clear()
            (table.extend if isinstance(table, list) else table.update)(before)


# What every module has; of these, code that runs adds to its modules at most.
_BOOKKEEPING = frozenset(vars(nn.Module())) - {"_modules"}


@contextmanager
def private_buffers(
    skeleton: nn.Module, is_leaf: Callable[[nn.Module, str], bool]
) -> Iterator[dict[str, torch.Tensor]]:
    """Put clones in the place of buffers, which are given by name: code that updates one while it is traced must not
    update the caller's. What a leaf holds stays.
    """
    swapped: list[tuple[nn.Module, str, torch.Tensor]] = []
    clones: dict[int, torch.Tensor] = {}
    named: dict[str, torch.Tensor] = {}
    for path, module in skeleton.named_modules():
        if is_leaf(module, path) or isinstance(module, torch.jit.ScriptModule):
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None:
                clone = clones.setdefault(id(buffer), buffer.clone())
                swapped.append((module, name, buffer))
                module._buffers[name] = clone
                named.setdefault(f"{path}.{name}" if path else name, clone)
    try:
        yield named
    finally:
        for module, name, buffer in swapped:
            module._buffers[name] = buffer
