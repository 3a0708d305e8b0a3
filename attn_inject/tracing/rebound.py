"""Functions that a model holds and that reach its modules by themselves: by a closure, or by a name in their file.
And weak references to modules, such as a part's to the whole. So with lists, dicts and objects that modules hold.

`model.forward = lambda x: model.head(model.body(x))` runs the same model whatever copy of it is called. What an alias
holds runs the alias.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import ref

from torch import nn

from .reach import TABLES, contents_of, is_foreign_home, is_helper, names_in


def rebound(value: Any, twins: Mapping[int, Any]) -> Any:
    """A function, a method or a weak reference for other modules: `twins` has them by the ids of those that it reaches.

    Anything else, and what reaches none of them, is given back as it is.
    """
    return Rebinding(twins).of(value)


class Rebinding:
    """`rebound` for several values, which may name one another."""

    def __init__(self, twins: Mapping[int, Any]) -> None:
        self._twins = twins
        self._made: dict[int, FunctionType] = {}
        self._homes: dict[int, dict[str, Any]] = {}
        # Functions that reach none; kept, so that no other has their ids.
        self._idle: dict[int, FunctionType] = {}

    def of(self, value: Any) -> Any:
        """`value`, or its twin."""
        if _is_held(value):
            return self._twins.get(id(value), value)
        if not self._reaches(value):
            return value
        if type(value) is ref:
            return ref(self.of(value()))
        if type(value) is MethodType:
            return MethodType(self.of(value.__func__), self.of(value.__self__))
        return self._made.get(id(value)) or self._function(value)

    def _reaches(self, value: Any) -> bool:
        """Whether one of the modules is reached from here."""
        seen: dict[int, FunctionType] = {}
        found = self._leads_to_one(value, seen)
        if not found:
            self._idle.update(seen)
        return found

    def _leads_to_one(self, value: Any, seen: dict[int, FunctionType]) -> bool:
        if _is_held(value):
            return id(value) in self._twins
        if type(value) is ref:
            return self._leads_to_one(value(), seen)
        if type(value) is MethodType:
            return self._leads_to_one(value.__self__, seen) or self._leads_to_one(value.__func__, seen)
        if type(value) is not FunctionType or id(value) in seen or id(value) in self._idle:
            return False
        seen[id(value)] = value
        held = [part for cell in value.__closure__ or () for part in contents_of(cell).values()]
        held += [*_named_by(value).values(), *vars(value).values()]
        return any(self._leads_to_one(part, seen) for part in held)

    def _function(self, function: FunctionType) -> FunctionType:
        named = {name: value for name, value in _named_by(function).items() if self._reaches(value)}
        home = function.__globals__
        if named:
            home = self._homes.setdefault(id(home), dict(home))
        # Others than those that lead to a module stay the ones that the code shares with who made it.
        old = function.__closure__ or ()
        cells = tuple(CellType() if any(map(self._reaches, contents_of(cell).values())) else cell for cell in old)
        made = FunctionType(function.__code__, home, function.__name__, function.__defaults__, cells or None)
        # It may name itself.
        self._made[id(function)] = made
        for cell, other in zip(old, cells, strict=True):
            if other is not cell:
                other.cell_contents = self.of(cell.cell_contents)
        home.update({name: self.of(value) for name, value in named.items()})
        made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
        made.__annotations__, made.__doc__ = function.__annotations__, function.__doc__
        vars(made).update({name: self.of(value) for name, value in vars(function).items()})
        return made


def _is_held(value: Any) -> bool:
    return isinstance(value, nn.Module) or type(value) in TABLES or is_helper(value)


def _named_by(function: FunctionType) -> dict[str, Any]:
    """The modules, and the functions of the same file, that a function of somebody's names."""
    home = function.__globals__
    if is_foreign_home(str(home.get("__name__", ""))):
        return {}
    named = {name: home[name] for name in set(names_in(function.__code__)) & home.keys()}
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, nn.Module) or (type(value) is FunctionType and value.__globals__ is home)
    }
