"""Forward hooks while a model is traced.

A hook that changes what its module is given, gives or reads is the model's code, and followed (`onlookers.py` tells).
One that only looks on runs beside the model: on proxies it would have whatever side effects it has on its owner, so it
is left out. Hooks that a forward itself registers are followed; so are all where the model cannot be followed without
them, or gives nothing: some models collect their features so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import ref

import torch
from torch import nn

from .contents import tensors_given
from .hook_tables import BACKWARD, FORWARD, hook_tables
from .onlookers import Hook, changes_something, unheard
from .proxies import Unfollowable


@contextmanager
def _no_values(_shown: Sequence[Any]) -> Iterator[Sequence[Any] | None]:
    yield None


class Hooks:
    """Which hooks of `skeleton` a trace leaves out: of those that it has now, the ones that only look on, or, with
    `followed`, none. They are asked within `values(shown)`, with what that gives in the places of what they are shown;
    where it gives None, all look on.

    `left_out` is whether there was one that would have run; `working` are the keys of those that did more.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        *,
        followed: bool,
        values: Callable[[Sequence[Any]], AbstractContextManager[Sequence[Any] | None]] = _no_values,
    ) -> None:
        self._skeleton = skeleton
        self._silent: set[int] = set()
        self._values = values
        self._shown: list[ref[torch.Tensor]] = []
        self._verdicts: dict[tuple[int, int, bool], bool] = {}
        self.left_out = False
        self.working: set[int] = set()
        if not followed:
            tables = [table for module in skeleton.modules() for table in hook_tables(module, FORWARD)]
            self._silent = {id(hook) for table in tables for hook in table.values()}

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

    def _works(self, hook: Hook, given: tuple[Any, ...]) -> bool:
        module, *shown = given
        with self._values(shown) as values:
            if values is None:
                return False
            self._shown += map(ref, tensors_given(values))
            return changes_something(hook, (module, *values))

    def refuse_what_was_shown(self, constants: Iterable[torch.Tensor]) -> None:
        """Refuse a graph with numbers that a hook was asked with: the model goes on with what its hooks keep.

        Raises:
            Unfollowable: one of `constants` is a tensor that a hook was shown, or a view of one.

        """
        kept = {id(tensor) for each in self._shown if (tensor := each()) is not None}
        if any(id(tensor) in kept or id(tensor._base) in kept for tensor in constants):
            raise Unfollowable("it goes on with what its hooks keep")

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
