"""What a graph module takes over from the model that it was made of: tables, attributes, constants of the class."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import fx, nn
from torch.nn.modules.module import _WrappedHook


def adopt(target: nn.Module, model: nn.Module, but: Collection[str]) -> None:
    """Make `model`'s parameters, buffers, children, hooks and plain attributes `target`'s own, `but` for these."""
    for key, value in vars(model).items():
        if key not in but:
            vars(target)[key] = value
    vars(target)["_load_state_dict_pre_hooks"] = hooks_before_a_load(target, model)
    # By which the class's own `load_state_dict` knows what it is given.
    vars(target)["_version"] = model._version
    # Constants of the class (not its code) are looked up on instances too; the most derived class has the word.
    for base in type(model).__mro__:
        if base.__module__.startswith("torch.nn.modules") or base in type(target).__mro__:
            continue
        for key, value in vars(base).items():
            plain = not key.startswith("__") and not callable(value) and not hasattr(value, "__get__")
            if plain and key not in vars(target) and not hasattr(fx.GraphModule, key) and _is_copied(value):
                vars(target)[key] = value


def hooks_before_a_load(target: nn.Module | None, model: nn.Module) -> dict[int, Any]:
    """The hooks of `model` before a state dict is loaded, of which those that are shown their module see `target`.

    Torch has them refer weakly to the module that they were registered on. Without a target they are to be put back.
    """
    hooks: dict[int, Any] = OrderedDict()
    held: Any
    for key, held in model._load_state_dict_pre_hooks.items():
        with_module = getattr(held, "with_module", False) or isinstance(held, _Unbound)
        kind = _Unbound if target is None else partial(_WrappedHook, module=target)
        hooks[key] = kind(held.hook) if with_module else held
    return hooks


class _Unbound:
    """A hook that is shown its module, while there is none."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook


def _is_copied(value: Any) -> bool:
    """Whether an instance may hold it: a class's lock, or its table of abstract methods, goes into no copy or file."""
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
