"""What a trace takes back: the mode of the model, what its code notes on itself, and its buffers."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .alias import own_once
from .face import face_of
from .reach import TABLES, held_in, parts_of

# Who reads a model puts others in the place of functions of torch: one at a time.
ALONE = threading.RLock()


def in_mode(model: Any, mode: str) -> Any:
    """`model`, put into `mode` ("train" or "eval") by methods of its own, which may give nothing back."""
    model.train(True) if mode == "train" else model.eval()  # noqa: FBT003
    return model


def aside_in_mode(aliased: nn.Module, mode: str) -> Any:
    """`in_mode` for an alias that is ours: what its classes write into weights meanwhile, they write into copies."""
    made: dict[int, Any] = {}
    written = written_with_modes(aliased)
    for module in (module for module in aliased.modules() if id(module) in written):
        for table in (module._parameters, module._buffers):
            table.update({name: own_once(held, made) for name, held in table.items() if held is not None})
    return in_mode(aliased, mode)


def written_with_modes(model: nn.Module) -> set[int]:
    """The ids of the modules within those that change mode in a way of their own: some merge weights then."""
    usual = (nn.Module.train, nn.Module.eval)
    faces = ((module, face_of(module)) for module in model.modules())
    own = [module for module, face in faces if (face.train, face.eval) != usual]  # type: ignore[attr-defined]
    return {id(part) for module in own for part in module.modules()}


@contextmanager
def as_it_was(skeleton: nn.Module, mode: str) -> Iterator[Callable[[], bool]]:
    """Put `skeleton` into `mode`, and take back what its code notes on itself, or in its tables, while it is traced.

    Gives whether it has noted something by now.
    """
    with taken_back(skeleton.modules()) as noted:
        in_mode(skeleton, mode)
        yield noted


@contextmanager
def taken_back(modules: Iterable[nn.Module]) -> Iterator[Callable[[], bool]]:
    """Take back what code notes on these modules, or in their tables; gives whether it has noted something by now."""
    owners: list[Any] = list(modules)
    held = held_by(owners)
    owners += [holder for holder in held if type(holder) not in TABLES]
    attributes = [(owner, dict(vars(owner))) for owner in owners]
    tables = [(table, copy.copy(table)) for table in held if type(table) in TABLES]

    def noted() -> bool:
        return any(not _holds(vars(owner), before) for owner, before in attributes) or any(
            list(map(id, parts_of(table))) != list(map(id, parts_of(before))) for table, before in tables
        )

    try:
        yield noted
    finally:
        for owner, before in attributes:
            vars(owner).clear()
            vars(owner).update(before)
        for table, before in tables:
            table.clear()
            (table.extend if isinstance(table, (list, deque)) else table.update)(before)


def _holds(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the attributes are what they were, but for the mode."""
    return now.keys() == before.keys() and all(now[name] is before[name] for name in now.keys() - {"training"})


def held_by(modules: Iterable[nn.Module]) -> list[Any]:
    """The tables and helper objects among the attributes of modules, and those that these hold, to a depth."""
    # A module has a score of attributes that every module has: looking through them would take most of the time.
    return held_in([vars(module)[name] for module in modules for name in vars(module).keys() - _BOOKKEEPING])


# What every module has; of these, code that runs adds to its modules at most.
_BOOKKEEPING = frozenset(vars(nn.Module())) - {"_modules"}


@contextmanager
def private_tensors(
    skeleton: nn.Module, *tables: str, but_in: Callable[[nn.Module, str], bool] = lambda *_: False
) -> Iterator[dict[str, torch.Tensor]]:
    """Put clones in the place of what is held in `tables` ("_parameters", "_buffers"), which are given by name: code
    that writes one while it is traced must not write the caller's. What a module holds for which `but_in` stays.
    """
    swapped: list[tuple[dict[str, Any], dict[str, Any]]] = []
    clones: dict[int, Any] = {}
    named: dict[str, torch.Tensor] = {}
    for path, module in skeleton.named_modules():
        if but_in(module, path) or isinstance(module, torch.jit.ScriptModule):
            continue
        for table in (vars(module)[name] for name in tables):
            swapped.append((table, dict(table)))
            for name, held in table.items():
                if held is not None:
                    table[name] = own_once(held, clones)
                    named.setdefault(f"{path}.{name}" if path else name, table[name])
    try:
        yield named
    finally:
        for table, before in swapped:
            table.update(before)
