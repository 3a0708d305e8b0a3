"""Whether a module's own code runs its children whatever they are called, so that one more would run too."""

from __future__ import annotations

import inspect
from types import FunctionType

from torch import nn

from ..tracing.reach import names_in
from ..tracing.rewritten import own_class

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OVER_CHILDREN = frozenset({"_modules", "children", "named_children", "modules", "named_modules"})


def goes_over_children(module: nn.Module) -> bool:
    """Whether its forward, or a method that this calls, goes over the children; a container may by itself."""
    return isinstance(module, _CONTAINERS) or bool(_names_of_forward(own_class(module)) & _OVER_CHILDREN)


def _names_of_forward(kind: type[nn.Module]) -> set[str]:
    """The names in the code of its forward and of the methods of its class that are named there."""
    named: set[str] = set()
    waiting = {"forward"}
    while waiting:
        named |= waiting
        methods = [inspect.unwrap(vars(base)[name]) for name in waiting for base in _own(kind) if name in vars(base)]
        code = [method.__code__ for method in methods if isinstance(method, FunctionType)]
        waiting = {name for each in code for name in names_in(each)} - named
    return named


def _own(kind: type[nn.Module]) -> list[type]:
    return [base for base in kind.__mro__ if not base.__module__.startswith("torch.") and base is not object]
