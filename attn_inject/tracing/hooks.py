"""Forward hooks while a model is traced.

A hook that somebody put on a module runs beside the model: on proxies it would have whatever side effects it has on its
owner, so it is left out. Hooks that a forward itself registers are the model's code, and followed; so are all where the
model cannot be followed without them, or gives nothing: some models collect their features so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

FORWARD = ("_forward_pre_hooks", "_forward_hooks")
BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


class Hooks:
    """Which hooks of `skeleton` a trace leaves out: those that it has now, or, with `followed`, none.

    `left_out` is whether there was one that would have run.
    """

    def __init__(self, skeleton: nn.Module, *, followed: bool) -> None:
        self._skeleton = skeleton
        self._silent: set[int] = set()
        self.left_out = False
        if not followed:
            self._silent = {id(hook) for module in skeleton.modules() for _, hook in _forward_hooks(module)}

    @contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Take the hooks that are left out off a module whose code is followed."""
        kept: list[tuple[dict[int, Any], dict[int, Any]]] = []
        for name in (*FORWARD, *BACKWARD):
            table = getattr(module, name, None)
            if table:
                kept.append((table, dict(table)))
                silent = [key for key, hook in table.items() if name in BACKWARD or id(hook) in self._silent]
                self.left_out = self.left_out or bool(silent and name in FORWARD)
                for key in silent:
                    del table[key]
        try:
            yield
        finally:
            for table, before in kept:
                table.update(before)

    def see(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *made: Any) -> None:
        """Show a module that stays whole to its hooks, for what they note: what they change, they change when it runs.

        `name` is `_forward_pre_hooks` or `_forward_hooks`, `made` what the module gave.
        """
        table = getattr(module, name)
        for key, hook in list(table.items()) if table else ():
            if id(hook) in self._silent:
                self.left_out = True
            else:
                hook(module, args, *([kwargs] if key in getattr(module, f"{name}_with_kwargs") else []), *made)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Take off again what is registered in here."""
        before = [(getattr(m, name), dict(getattr(m, name))) for m in self._skeleton.modules() for name in FORWARD]
        try:
            yield
        finally:
            for table, held in before:
                if table.keys() != held.keys():
                    table.clear()
                    table.update(held)


def _forward_hooks(module: nn.Module) -> Iterator[tuple[int, Callable[..., Any]]]:
    for name in FORWARD:
        yield from getattr(module, name).items()
