"""What the code of a model can keep something in, beyond its modules: what its forward reaches by name.

Caches of functions (`functools.lru_cache`), tables (a dict in a class, in a file, in a closure, as a default), names of
files and classes that code assigns, and helper objects. Code is followed from each `forward`, by the names in it:
through the files of its functions, the classes of the model, closures and wrappers. Code of torch and of Python keeps
nothing of a model's.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import fx, nn

CACHE: type[Any] = functools._lru_cache_wrapper
TABLES = (dict, OrderedDict, defaultdict, Counter, list, deque, set)
CONTENTS = "cell_contents"
_STARTS = ("forward", "__call__")
# A long table of functions is a registry, whose functions a forward names itself if it calls them.
_FEW = 64
_FOREIGN = frozenset({"torch", "torchgen", "numpy", "attn_inject", "functorch"}) | sys.stdlib_module_names - {
    "__main__"
}


def is_helper(value: Any) -> bool:
    """An object of somebody's class that code keeps things in."""
    if isinstance(value, (nn.Module, torch.Tensor, type)) or type(value).__module__.partition(".")[0] in _NO_STATE:
        return False
    # A proxy, of our class, stands for a tensor.
    return type(getattr(value, "__dict__", None)) is dict and not issubclass(type(value), fx.Proxy)


_NO_STATE = frozenset({"builtins", "torch", "functools", "enum", "types"})


def tables_in(table: Any, levels: int = 3) -> Iterator[Any]:
    """The table, and those that it holds, to a depth."""
    yield table
    for part in parts_of(table):
        if levels and type(part) in TABLES:
            yield from tables_in(part, levels - 1)


def held_in(values: Iterable[Any], levels: int = 4) -> list[Any]:
    """The tables and helper objects among these values, and those that they hold, to a depth; each once."""
    found: dict[int, Any] = {}
    for _ in range(levels):
        new = {id(value): value for value in values if type(value) in TABLES or is_helper(value)}
        new = {key: value for key, value in new.items() if key not in found}
        found.update(new)
        values = [part for value in new.values() for part in parts_of(value)]
    return list(found.values())


def parts_of(holder: Any) -> list[Any]:
    """What a table or a helper object holds."""
    if type(holder) in TABLES:
        return list(holder.values() if isinstance(holder, dict) else holder)
    return list(vars(holder).values())


class Reach:
    """Everything that the code of the modules of `model`, and of `functions`, reaches by name.

    `caches` are functions with a cache; `tables` dicts, lists and sets; `names` the names of each file that code
    speaks of, by the file's globals; `classes` somebody's; `cells` those of closures; `helpers` objects.
    """

    def __init__(self, model: nn.Module, functions: Iterable[Callable[..., Any]] = ()) -> None:
        self.caches: list[Any] = []
        self.tables: list[Any] = []
        self.names: list[tuple[dict[str, Any], set[str]]] = []
        self.classes: list[type] = []
        self.cells: list[CellType] = []
        self.helpers: list[Any] = []
        self._seen: set[int] = set()
        self._homes: dict[int, set[str]] = {}
        self._named: set[str] = set(_STARTS)
        self._waiting: list[Any] = []
        for kind in {type(module) for module in model.modules()}:
            self._enter_class(kind)
        for module in model.modules():
            if not is_foreign_home(type(module).__module__):
                for value in [value for name, value in vars(module).items() if name not in _EVERYONES]:
                    self._meet(value)
        for function in functions:
            self._meet(function)
        while self._waiting:
            self._follow(self._waiting.pop())

    def _meet(self, value: Any) -> None:
        """Note a value, and follow it later if it is code."""
        if id(value) in self._seen or isinstance(value, (nn.Module, torch.Tensor)):
            return
        if inner := list(_wrapped_in(value)):
            for part in inner:
                self._meet(part)
        elif type(value) is ContextVar:
            self._seen.add(id(value))
            self._meet(value.get(None))
        elif isinstance(value, type):
            self._enter_class(value)
        elif type(value) in (FunctionType, CACHE):
            if _is_foreign(value):
                # A decorator's, around somebody's own.
                self._meet(vars(value).get("__wrapped__"))
            else:
                self._seen.add(id(value))
                self._waiting.append(value)
        elif type(value) in TABLES:
            self._seen.add(id(value))
            self.tables.append(value)
            for part in _parts_of_few(value):
                self._meet(part)
        elif is_helper(value) and not isinstance(value, ModuleType):
            self._seen.add(id(value))
            self.helpers.append(value)
            self._enter_class(type(value))
            for part in vars(value).values():
                self._meet(part)

    def _follow(self, code: Any) -> None:
        if type(code) is CACHE:
            self.caches.append(code)
            self._meet(code.__wrapped__)
            return
        for cell in code.__closure__ or ():
            self.cells.append(cell)
            self._meet(contents_of(cell).get(CONTENTS))
        for value in (*(code.__defaults__ or ()), *(code.__kwdefaults__ or {}).values(), *vars(code).values()):
            self._meet(value)
        names = set(names_in(code.__code__))
        known = self._homes.get(id(code.__globals__))
        if known is None:
            known = self._homes[id(code.__globals__)] = set()
            self.names.append((code.__globals__, known))
        for name in names - known:
            value = code.__globals__.get(name)
            self._meet(value)
            if type(value) is ModuleType and not is_foreign_home(value.__name__):
                for each in names & vars(value).keys():
                    self._meet(vars(value)[each])
        known |= names
        for name in names - self._named:
            self._named.add(name)
            for kind in self.classes:
                if name in vars(kind):
                    self._meet(vars(kind)[name])

    def _enter_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if id(base) not in self._seen and not is_foreign_home(base.__module__):
                self._seen.add(id(base))
                self.classes.append(base)
                for name in self._named & vars(base).keys():
                    self._meet(vars(base)[name])


# What every module has.
_EVERYONES = frozenset(vars(nn.Module()))


def _wrapped_in(value: Any) -> Iterator[Any]:
    """The functions, and what is given to them, behind a method, a property or a partial."""
    kind = type(value)
    if kind in (staticmethod, classmethod, MethodType):
        yield value.__func__
    elif kind in (property, functools.cached_property):
        yield value.fget if kind is property else value.func
    elif kind is functools.partial:
        yield from (value.func, *value.args, *value.keywords.values())


def _parts_of_few(table: Any) -> list[Any]:
    return [] if len(table) > _FEW else list(table.values() if isinstance(table, dict) else table)


def names_in(code: CodeType) -> Iterator[str]:
    """The names that code, and the code in it, speaks of."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def contents_of(cell: CellType) -> dict[str, Any]:
    """What the cell holds, under the name of its attribute; nothing, if it is empty."""
    try:
        return {CONTENTS: cell.cell_contents}
    except ValueError:
        return {}


def _is_foreign(function: Any) -> bool:
    # What wraps another bears its name and its module, but has the file that it was written in.
    home = function.__globals__.get("__name__") if type(function) is FunctionType else function.__module__
    return is_foreign_home(home or "")


def is_foreign_home(home: str) -> bool:
    """Whether a file of this name is torch's, Python's or numpy's."""
    return home.partition(".")[0] in _FOREIGN
