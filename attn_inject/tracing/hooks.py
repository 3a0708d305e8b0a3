"""Forward hooks while a model is traced.

A hook that changes what its module is given, gives or reads is the model's code, and followed (`onlookers.py` tells).
One that only looks on runs beside the model: on proxies it would have whatever side effects it has on its owner, so it
is left out. Hooks that a forward itself registers are followed; so are all where the model cannot be followed without
them, or gives nothing: some models collect their features so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .onlookers import Hook, unheard

FORWARD = ("_forward_pre_hooks", "_forward_hooks")
BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


class Hooks:
    """Which hooks of `skeleton` a trace leaves out: of those that it has now, the ones that only look on, or, with
    `followed`, none. `works` says of a hook, shown its arguments, whether it does more.

    `left_out` is whether there was one that would have run; `working` are the keys of those that did more.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        *,
        followed: bool,
        works: Callable[[Hook, tuple[Any, ...]], bool] = lambda *_: False,
    ) -> None:
        self._skeleton = skeleton
        self._silent: set[int] = set()
        self._works = works
        self._verdicts: dict[tuple[int, int, bool], bool] = {}
        self.left_out = False
        self.working: set[int] = set()
        if not followed:
            self._silent = {id(hook) for module in skeleton.modules() for _, hook in _forward_hooks(module)}

    @contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Let the hooks of a module whose code is followed be left out, or followed."""
        kept: list[tuple[dict[int, Any], dict[int, Any]]] = []
        for name in (*FORWARD, *BACKWARD):
            table = getattr(module, name, None)
            if table:
                kept.append((table, dict(table)))
                for key, hook in list(table.items()):
                    if name in BACKWARD:
                        del table[key]
                    elif id(hook) in self._silent:
                        table[key] = self._judged(key, hook)
        try:
            yield
        finally:
            for table, before in kept:
                table.update(before)

    def _judged(self, key: int, hook: Hook) -> Hook:
        def judged(*given: Any) -> Any:
            case = key, id(given[0]), given[0].training
            if case not in self._verdicts:
                self._verdicts[case] = self._works(hook, given)
            if self._verdicts[case]:
                self.working.add(key)
                return unheard(hook, given)
            self.left_out = True
            return None

        return judged

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
