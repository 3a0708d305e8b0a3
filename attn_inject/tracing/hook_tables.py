"""The tables of a module's hooks, and what a copy of a model has in its own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from .rebound import Rebinding

FORWARD = ("_forward_pre_hooks", "_forward_hooks")
BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


def hook_tables(module: nn.Module, names: Sequence[str] = (*FORWARD, *BACKWARD)) -> list[dict[int, Any]]:
    """Those of a module's tables with these names in which there are hooks."""
    return [table for name in names if (table := vars(module).get(name))]


def is_hooked(module: nn.Module) -> bool:
    """Whether the module, or a part of it, has forward or backward hooks; masks and old weight norms are some."""
    return any(hook_tables(part, (*FORWARD, *BACKWARD)) for part in module.modules())


def copy_hooks(module: nn.Module, memo: dict[int, Any], rebinding: Rebinding) -> None:
    """Put copies of a module's hooks into the tables that `memo` has for its own, by their ids.

    What hooks are of that is no part of the model is no part of its copy either.
    """
    for table in hook_tables(module):
        owners = [owner for hook in table.values() for owner in _owners(hook)]
        beside = {id(owner): owner for owner in owners if isinstance(owner, nn.Module) or not _holds(owner, memo)}
        copies = {key: copy.deepcopy(hook, {**beside, **memo}) for key, hook in table.items()}
        memo[id(table)].update({key: rebinding.of(hook) for key, hook in copies.items()})


def _owners(hook: Any) -> Iterator[Any]:
    """The objects that a hook is of, or is given."""
    if isinstance(hook, functools.partial):
        for part in (hook.func, *hook.args, *hook.keywords.values()):
            yield from _owners(part)
    elif isinstance(hook, MethodType):
        yield hook.__self__
    elif not isinstance(hook, FunctionType):
        yield hook


def _holds(owner: Any, memo: dict[int, Any]) -> bool:
    """Whether an object holds a module that has been copied."""
    held = vars(owner).values() if isinstance(getattr(owner, "__dict__", None), dict) else ()
    return any(isinstance(value, nn.Module) and id(value) in memo for value in held)
