"""Which modules and functions a trace keeps whole: `torch.nn`'s own, and what timm and the caller name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from .modes import Modes

_USUAL = fx.Tracer()


class Leaves:
    """Which modules and functions stay whole in the graph."""

    def __init__(self) -> None:
        self.functions: tuple[Callable[..., Any], ...] = ()
        self._registered: tuple[type, ...] = ()
        self._closed: set[type] = set()
        self._followed: set[type] = set()
        self._whole: set[nn.Module] = set()
        # Of the trace that is under way.
        self.modes = Modes()
        if "timm.models" in sys.modules:
            from timm.models._features_fx import get_notrace_functions, get_notrace_modules

            self.functions = tuple(get_notrace_functions())  # type: ignore[no-untyped-call]
            self._registered = tuple(get_notrace_modules())  # type: ignore[no-untyped-call]

    def keep_whole(self, modules: Iterable[nn.Module]) -> None:
        self._whole.update(modules)

    def is_leaf(self, module: nn.Module) -> bool:
        if isinstance(module, torch.jit.ScriptModule) or type(module) in self._closed or module in self._whole:
            return True
        if getattr(type(module), "traced_whole", False):
            return True
        if parametrize.is_parametrized(module):
            # Torch has made a class of it, over the one that it had.
            return type(module).__mro__[1].__module__.startswith("torch.nn.")
        return type(module) in self._registered and not _holds_convolutions(module)

    def is_one_call(self, module: nn.Module, path: str) -> bool:
        """Whether the module is a single node: these, and torch's own layers.

        A layer that the model's code has put into another mode (`self.norm.eval()` within a forward) is not: as a node
        it would run in the mode of the whole.
        """
        if self.is_leaf(module) and type(module) not in self._closed:
            return True
        # The class of a parametrized module is torch's, its code somebody's.
        is_torchs = _USUAL.is_leaf_module(module, path) and not parametrize.is_parametrized(module)
        return (is_torchs or type(module) in self._closed) and not self.modes.are_switched_in(module)

    def checks_ranks_alone(self, module: nn.Module) -> bool:
        """Whether the module is a layer of torch's without parts, which looks at its input to refuse it at most."""
        return _USUAL.is_leaf_module(module, "") and not module._modules and not parametrize.is_parametrized(module)

    def can_close(self, module: nn.Module) -> bool:
        known = self._closed | self._followed
        if type(module) in known or self.modes.are_switched_in(module):
            return False
        return type(module) in self._registered or _is_layer(module)

    def close(self, module: nn.Module) -> None:
        self._closed.add(type(module))

    def is_closed(self, module: nn.Module) -> bool:
        return type(module) in self._closed

    def follow(self, module: nn.Module) -> None:
        """Let a module that was closed be followed after all, whatever it decides."""
        self._closed.discard(type(module))
        self._followed.add(type(module))


def _is_layer(module: nn.Module) -> bool:
    """Whether the module is somebody's kind of a torch.nn layer, with its control flow (a batch norm of one's own)."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    homes = [base.__module__ for base in type(module).__mro__ if base is not nn.Module]
    return (
        not isinstance(module, containers)
        and any(home.startswith("torch.nn.modules") for home in homes)
        and not _holds_convolutions(module)
    )


def _holds_convolutions(module: nn.Module) -> bool:
    return any(isinstance(child, nn.modules.conv._ConvNd) for child in module.modules() if child is not module)
