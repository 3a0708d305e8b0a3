"""Caches of a model's code give nothing of one pass to another: they keep no proxy, no shape, no module of an alias.

Code that asks a function with a cache for a grid of a size gets, while it is traced, a proxy, and on the meta device a
tensor without numbers. Both would be handed to whoever asks next: the second trace, or the caller's own run. What code
keeps otherwise, that a library was loaded or a warning given, stays kept.
"""

from __future__ import annotations

import copy
import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType
from typing import Any

import torch
from torch import fx, nn
from torch._C import DisableTorchFunction

from .reach import Reach, contents_of, is_helper, tables_in

_LEVELS = 6
# Bytes; data that somebody's hook reads is not copied for each call of it.
_LARGE = 2**26
_MISSING = object()
_Seen = dict[int, tuple[int, Any]]


@contextmanager
def nothing_kept(
    model: nn.Module, functions: Iterable[Callable[..., Any]] = (), *, real: bool = False
) -> Iterator[None]:
    """Take back, at the end, what the code of `model` and of `functions` keeps of a pass of `model` meanwhile.

    A function's cache that holds something of the pass is emptied. A table, and a name in a file, a class, a closure or
    a helper object, has again what it had. With `real`, the pass computes: each new tensor is of it.
    """
    before = _Before(Reach(model, functions))
    try:
        yield
    finally:
        before.restore({id(module) for module in model.modules()}, real=real)


@contextmanager
def as_if_unheard(model: nn.Module, functions: Iterable[Callable[..., Any]], *, in_place: bool) -> Iterator[None]:
    """Take back all that the code of `functions`, which is shown a pass of `model`, keeps meanwhile: counts too.

    With `in_place` also what it writes into tensors and arrays.
    """
    before = _Before(Reach(model, functions))
    # Nobody who follows torch's functions is to see this.
    with DisableTorchFunction():
        numbers = before.numbers() if in_place else []
    try:
        yield
    finally:
        before.put_back(None)
        with DisableTorchFunction():
            for home, kept in numbers:
                home[...] = kept


class _Before:
    def __init__(self, reach: Reach) -> None:
        self._misses = [(cache, cache.cache_info().misses) for cache in reach.caches]
        owners = (*reach.classes, *reach.helpers, *reach.cells)
        homes = [*reach.names, *((owner, set()) for owner in owners)]
        self._held = [(owner, names, _held_by(owner, names)) for owner, names in homes]
        tables = {id(part): part for table in reach.tables for part in tables_in(table)}
        self._tables = [(table, copy.copy(table)) for table in tables.values()]

    def numbers(self) -> list[tuple[Any, Any]]:
        """(where they are, a copy) of all numbers that are written in place: of tensors, arrays and statistics."""
        held = [value for _, _, values in self._held for value in values.values()]
        held += [part for table, _ in self._tables for part in _parts(table)]
        tensors = [value.detach() for value in held if isinstance(value, torch.Tensor) and not value.is_inference()]
        tensors += [buffer for value in held if isinstance(value, nn.Module) for buffer in value.buffers()]
        arrays = [value for value in held if type(value).__name__ == "ndarray"]
        small = (each for each in (*tensors, *arrays) if each.nbytes <= _LARGE)
        return [(each, each.clone() if isinstance(each, torch.Tensor) else each.copy()) for each in small]

    def restore(self, modules: set[int], *, real: bool) -> None:
        """Put back what now holds a proxy, a meta (or any) tensor or one of `modules`, by their ids."""
        self.put_back(partial(_is_of_the_pass, modules, {}, _any if real else _is_meta))

    def put_back(self, of_the_pass: Callable[[Any], bool] | None) -> None:
        """Put back what has something new that is `of_the_pass`; where that is None, what has changed in any way."""
        is_unwanted = of_the_pass or (lambda _: True)
        for cache, misses in self._misses:
            # It shows what it holds to nobody but the garbage collector.
            if cache.cache_info().misses != misses and any(map(is_unwanted, gc.get_referents(cache))):
                cache.cache_clear()
        for owner, names, earlier in self._held:
            for name, value in _held_by(owner, names).items():
                if value is not earlier.get(name, _MISSING) and is_unwanted(value):
                    _put_back(owner, name, earlier.get(name, _MISSING))
        for table, before in self._tables:
            now, then = _parts(table), _parts(before)
            if list(map(id, now)) != list(map(id, then)) and (
                of_the_pass is None or any(map(of_the_pass, _new(now, then)))
            ):
                table.clear()
                (table.extend if isinstance(table, (list, deque)) else table.update)(before)


def _new(now: list[Any], then: list[Any]) -> Iterator[Any]:
    known = set(map(id, then))
    return (part for part in now if id(part) not in known)


def _held_by(owner: Any, names: set[str]) -> dict[str, Any]:
    """What a class, an object or a closure's cell has, or a file's globals under `names`."""
    if isinstance(owner, dict):
        return {name: owner[name] for name in names if name in owner}
    return contents_of(owner) if isinstance(owner, CellType) else dict(vars(owner))


def _put_back(owner: Any, name: str, value: Any) -> None:
    """Let `owner` have what it had under `name`, which may be nothing."""
    if isinstance(owner, dict):
        owner.pop(name) if value is _MISSING else owner.update({name: value})
    elif value is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _any(_: torch.Tensor) -> bool:
    return True


def _is_meta(tensor: torch.Tensor) -> bool:
    return tensor.is_meta


def _is_of_the_pass(
    modules: set[int], seen: _Seen, made: Callable[[torch.Tensor], bool], value: Any, levels: int = _LEVELS
) -> bool:
    """Whether a value is, or holds, a proxy, a tensor that is `made` in the pass or one of `modules`, by their ids.

    `seen` are the values in which there was none, each with how deep that was looked for: many hold the same ones.
    """
    if isinstance(value, fx.Proxy):
        return True
    if isinstance(value, torch.Tensor):
        return made(value)
    if isinstance(value, nn.Module):
        return id(value) in modules
    if levels <= 0 or seen.get(id(value), (0, None))[0] >= levels:
        return False
    if any(_is_of_the_pass(modules, seen, made, part, levels - 1) for part in _parts(value)):
        return True
    # The value with it: another one could have its id once it is gone.
    seen[id(value)] = levels, value
    return False


def _parts(value: Any) -> list[Any]:
    """What a value holds, as far as a cache may hold it."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, deque, tuple, set, frozenset)):
        return list(value)
    return list(vars(value).values()) if is_helper(value) else []
