"""On which of a model's modules a hook may keep something: where its code has them, or what they hold, in its hands.

What hooks collect there, the model's code may go on with: such a hook is part of the model. It may collect in a table,
in an object of somebody's class (a U-Net's decoder reads what its hook objects have stored), or on a module itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property, partial
from types import FunctionType, MethodType
from typing import Any
from weakref import ref

from torch import nn

from .reach import TABLES, contents_of, is_helper
from .restoring import held_by


class Keepers:
    """The modules of `model` on which hooks may keep something. It is looked through once, if a hook has it in hand."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def of(self, hook: Any) -> list[nn.Module]:
        """The modules that a hook reaches, or one of whose tables or helper objects."""
        reached = list(_reached_by(hook, set()))
        homes = self._homes if reached else {}
        return list({id(module): module for part in reached for module in homes.get(id(part), ())}.values())

    @cached_property
    def _homes(self) -> dict[int, list[nn.Module]]:
        homes: dict[int, list[nn.Module]] = defaultdict(list)
        for module in self._model.modules():
            for part in (module, *held_by([module])):
                homes[id(part)].append(module)
        return homes


def _reached_by(value: Any, seen: set[int]) -> Iterator[Any]:
    """The modules, tables and helper objects that a function has in its hands."""
    if id(value) in seen:
        return
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, nn.Module) or type(value) in TABLES:
        yield value
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, FunctionType):
        cells = [part for cell in value.__closure__ or () for part in contents_of(cell).values()]
        parts = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, ref):
        parts = [value()]
    elif is_helper(value):
        yield value
        parts = list(vars(value).values())
    for part in parts:
        yield from _reached_by(part, seen)
