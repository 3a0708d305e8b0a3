"""Functions that a model holds and that reach its modules by themselves: by a closure, or by a name in their file.
And weak references to modules, such as a part's to the whole.

`model.forward = lambda x: model.head(model.body(x))` runs the same model whatever copy of it is called. What an alias
holds runs the alias.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import ref

from torch import nn

from .reach import CONTENTS, contents_of, names_in


def rebound(value: Any, twins: Mapping[int, Any]) -> Any:
    """A function, a method or a weak reference for other modules: `twins` has them by the ids of those that it reaches.

    Anything else, and what reaches none of them, is given back as it is.
    """
    return _Rebinding(twins).of(value)


class _Rebinding:
    def __init__(self, twins: Mapping[int, Any]) -> None:
        self._twins = twins
        self._open: set[int] = set()

    def of(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self._twins.get(id(value), value)
        if type(value) is ref:
            target = value()
            other = self.of(target)
            return value if other is target else ref(other)
        if type(value) is MethodType:
            function, owner = self.of(value.__func__), self.of(value.__self__)
            same = function is value.__func__ and owner is value.__self__
            return value if same else MethodType(function, owner)
        # One that names itself is open already.
        if type(value) is not FunctionType or id(value) in self._open:
            return value
        self._open.add(id(value))
        try:
            return self._function(value)
        finally:
            self._open.discard(id(value))

    def _function(self, function: FunctionType) -> FunctionType:
        cells = tuple(map(self._cell, function.__closure__ or ()))
        names = {
            name: function.__globals__[name] for name in set(names_in(function.__code__)) & function.__globals__.keys()
        }
        other = {name: self.of(value) for name, value in names.items() if isinstance(value, nn.Module)}
        own = {name: self.of(value) for name, value in vars(function).items()}
        renamed = any(value is not names[name] for name, value in other.items())
        if (
            cells == (function.__closure__ or ())
            and not renamed
            and all(own[n] is v for n, v in vars(function).items())
        ):
            return function
        home = {**function.__globals__, **other} if renamed else function.__globals__
        made = FunctionType(function.__code__, home, function.__name__, function.__defaults__, cells or None)
        made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
        made.__annotations__, made.__doc__ = function.__annotations__, function.__doc__
        vars(made).update(own)
        return made

    def _cell(self, cell: CellType) -> CellType:
        held = contents_of(cell)
        other = {name: self.of(value) for name, value in held.items()}
        return cell if all(other[name] is value for name, value in held.items()) else CellType(other[CONTENTS])
