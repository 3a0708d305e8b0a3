"""Calls of a module's `forward` by its name: `block.forward(x)` runs the block, though none of its hooks.

torch tells nobody of such a call. So that what runs in one is the block's, each module has for a while a `forward` of
its own among its attributes, which `super().forward(x)` does not ask for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

BareCall = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class BareCalls:
    """Hands calls of `forward` by its name to `called(module, forward, args, kwargs)`, within `told`."""

    def __init__(self, called: BareCall) -> None:
        self._called = called
        self._expected: dict[int, int] = {}

    @contextmanager
    def told(self, skeleton: nn.Module, *, but_in: Callable[[nn.Module, str], bool]) -> Iterator[None]:
        """Tell of the bare calls of modules of `skeleton` in here, but of those for which `but_in(module, path)`."""
        followed = [module for path, module in skeleton.named_modules() if path and not but_in(module, path)]
        own = [(module, vars(module).get("forward")) for module in followed]
        for module, _ in own:
            vars(module)["forward"] = self._telling(module, module.forward)
        try:
            yield
        finally:
            for module, forward in own:
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = forward

    @contextmanager
    def expected(self, module: nn.Module) -> Iterator[None]:
        """The next call of this module's `forward` in here is torch's, or our own."""
        before = self._expected.get(id(module), 0)
        self._expected[id(module)] = before + 1
        try:
            yield
        finally:
            self._expected[id(module)] = before

    def _telling(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def told(*args: Any, **kwargs: Any) -> Any:
            if waiting := self._expected.get(id(module), 0):
                self._expected[id(module)] = waiting - 1
                return forward(*args, **kwargs)
            return self._called(module, forward, args, kwargs)

        return told
