"""Forward hooks while a model is traced.

A hook that changes what its module is given, gives or reads is the model's code, and followed (`onlookers.py` tells).
So is one that keeps something on the model, whose code may go on with it: it is not to find what an earlier run left
there. One that only looks on runs beside the model: on proxies it would have whatever side effects it has on its owner,
so it is left out. Hooks that a forward itself registers are followed; so are all where the model cannot be followed
without them, or gives nothing: some models collect their features so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from weakref import ref

import torch
from torch import nn

from .contents import tensors_given
from .hook_tables import BACKWARD, FORWARD, hook_tables
from .keepers import Keepers
from .onlookers import Hook, Verdict, judged, unheard
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
        self._verdicts: dict[tuple[int, int, bool], Verdict] = {}
        self._keepers = Keepers(skeleton)
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
        def asked(*given: Any) -> Any:
            verdict = self._verdict(key, hook, given, self._keepers.of(hook))
            if verdict.works:
                self.working.add(key)
            if verdict.keeps:
                # The model's code may go on with that. One that cannot be followed is taken for one that looks on.
                with suppress(Exception):
                    return hook(*given)
            if verdict.works:
                return unheard(hook, given)
            self.left_out = True
            return None

        return asked

    def _verdict(self, key: int, hook: Hook, given: tuple[Any, ...], keepers: Sequence[nn.Module]) -> Verdict:
        module, *shown = given
        case = key, id(module), module.training
        if case not in self._verdicts:
            self._verdicts[case] = Verdict(works=False, keeps=False)
            with self._values(shown) as values:
                if values is not None:
                    self._shown += map(ref, tensors_given(values))
                    self._verdicts[case] = judged(hook, (module, *values), keepers)
        return self._verdicts[case]

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
            given = (module, args, *([kwargs] if key in getattr(module, f"{name}_with_kwargs") else []), *made)
            if id(hook) not in self._silent:
                hook(*given)
            elif not self._is_followed(key, hook, given):
                self.left_out = True

    def _is_followed(self, key: int, hook: Hook, given: tuple[Any, ...]) -> bool:
        """Follow a hook of a module that stays whole, if it keeps something on others; gives whether that was done."""
        keepers = self._keepers.of(hook)
        own = set(given[0].modules()) if keepers else set()
        keepers = [keeper for keeper in keepers if keeper not in own]
        if keepers and self._verdict(key, hook, given, keepers).keeps:
            with suppress(Exception):
                hook(*given)
                return True
        return False

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
