"""What the code of a model is told where it asks for the type of a value that a trace has a proxy for, or its length.

Python's own `len` wants a number, which would be decided: `x.view(len(x), -1)` would freeze the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from .given import form_of, is_given, kind_of
from .nodes import has_value, value_of
from .proxies import FollowingProxy
from .reach import names_in


@contextmanager
def types_answered(model: nn.Module) -> Iterator[None]:
    """Let `isinstance`, `type`, `callable`, `len` in the code of `model`'s packages say of a proxy what they say of a
    value.

    The names are given to the packages' modules: a proxy that bore its value's class would be taken for a tensor by
    compiled code too, which then reads its memory, and torch's compiler knows the builtin by its identity.
    """
    answers = {"isinstance": _is_instance, "len": _length, "callable": _is_callable, "type": _Type}
    packages = [vars(module) for module in modules_of(model)]
    homes = [(home, name) for home in packages for name in answers if name not in home]
    # Other threads may run the code of a library that compares `callable` and `type` with what it knows.
    known = {id(home) for home in packages}
    imported = [vars(module) for module in _modules_in(_imported_by(model))]
    others = [home for home in imported if id(home) not in known]
    homes += [(home, name) for home in others for name in ("isinstance", "len") if name not in home]
    is_tensor, of_script = torch.is_tensor, torch.jit.isinstance
    for home, name in homes:
        home[name] = answers[name]
    torch.is_tensor = lambda value: _is_instance(value, torch.Tensor)  # type: ignore[assignment]
    torch.jit.isinstance = lambda value, kinds: of_script(_known(value), kinds)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.is_tensor, torch.jit.isinstance = is_tensor, of_script
        for home, name in homes:
            # Somebody's code may have taken it out; what is left must go all the same.
            home.pop(name, None)


def _length(value: Any) -> Any:
    """The length, which of a tensor is the size of its first axis."""
    held = value_of(value.node) if type(value) is FollowingProxy else None
    return value.size(0) if isinstance(held, torch.Tensor) and held.dim() else len(value)


def modules_of(model: nn.Module) -> list[ModuleType]:
    """The loaded modules of every package that has a class of `model`, or a function that the code of one names.

    But for torch, Python and this one; and for numpy, which is handed what was decided.
    """
    homes = {base.__module__ for base in _bases_of(model)}
    return _modules_in({home.partition(".")[0] for home in homes} | _named_in(homes))


def _bases_of(model: nn.Module) -> set[type]:
    return {base for kind in {type(module) for module in model.modules()} for base in kind.__mro__}


def _modules_in(packages: set[str]) -> list[ModuleType]:
    loaded = [module for package in sorted(packages - _NOBODYS) for module in _LOADED.by_package().get(package, ())]
    # Some go by several names.
    once = {id(module): module for module in loaded if type(getattr(module, "__dict__", None)) is dict}
    return list(once.values())


class _Loaded:
    """The loaded modules by their package; attaching asks some hundred times, and little is imported meanwhile."""

    def __init__(self) -> None:
        self._known: dict[str, ModuleType] = {}
        self._by_package: dict[str, list[ModuleType]] = {}

    def by_package(self) -> dict[str, list[ModuleType]]:
        now = dict(sys.modules)
        # Comparing modules themselves would run the code of those that load when they are first touched.
        if list(now) != list(self._known) or not all(map(is_, now.values(), self._known.values())):
            self._known, self._by_package = now, {}
            for name, module in now.items():
                self._by_package.setdefault(name.partition(".")[0], []).append(module)
        return self._by_package


_LOADED = _Loaded()


def _globals_of(homes: set[str]) -> list[Any]:
    loaded = [vars(sys.modules[home]) for home in homes if home.partition(".")[0] != "torch" and home in sys.modules]
    return [value for names in loaded for value in list(names.values())]


def _named_in(homes: set[str]) -> set[str]:
    """The packages of the functions that the modules `homes` have as globals: `from einops import rearrange`."""
    functions = [value for value in _globals_of(homes) if type(value) is FunctionType]
    return {str(function.__module__).partition(".")[0] for function in functions}


def _imported_by(model: nn.Module) -> set[str]:
    """The packages that the files of the model's classes import whole, or that its methods import by themselves."""
    bases = _bases_of(model)
    modules = [value for value in _globals_of({base.__module__ for base in bases}) if type(value) is ModuleType]
    somebodys = [kind for kind in bases if kind.__module__.partition(".")[0] not in _NOBODYS]
    names = {name.partition(".")[0] for kind in somebodys for name in _names_of(kind)} & sys.modules.keys()
    return names | {module.__name__.partition(".")[0] for module in modules}


@lru_cache(1024)
def _names_of(kind: type) -> frozenset[str]:
    codes = [code for value in vars(kind).values() if (code := getattr(value, "__code__", None)) is not None]
    return frozenset(name for code in codes for name in names_in(code))


_NOBODYS = {"torch", "attn_inject", "numpy"} | (sys.stdlib_module_names - {"__main__"})


def _is_instance(value: Any, kinds: Any) -> bool:
    if not isinstance(value, FollowingProxy):
        return isinstance(value, kinds)
    known = _known(value)
    if isinstance(known, (list, tuple, Mapping)) and is_given(value.node):
        # A caller may give a tensor, or the other of the two, where this is given.
        same = isinstance([], kinds) == isinstance((), kinds)
        value.tracer.hold(value.node, form_of if same else kind_of)  # type: ignore[attr-defined]
    return isinstance(value, kinds) or isinstance(known, kinds)


class _AsType(type):
    """Lets a class do what `type` does: tell a value's class, be asked for, make classes, equal `type`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1:
            return type(*args, **kwargs)
        kind = type(_known(args[0]) if isinstance(args[0], FollowingProxy) else args[0])
        return cls if kind is type else kind

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is type

    def __hash__(cls) -> int:
        return hash(type)

    def __getitem__(cls, item: Any) -> Any:
        return type[item]

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)

    def __subclasscheck__(cls, kind: Any) -> bool:
        return issubclass(kind, type)


class _Type(metaclass=_AsType):
    """What stands in the place of `type`."""


def _is_callable(value: Any) -> bool:
    return callable(_known(value) if isinstance(value, FollowingProxy) else value)


def _known(value: Any) -> Any:
    """What a proxy stands for, also in lists, tuples and dicts; anything else as it is."""
    if isinstance(value, FollowingProxy):
        held = vars(value).get("_held")
        return held if held is not None else value_of(value.node) if has_value(value.node) else value
    if type(value) in (list, tuple):
        return type(value)(map(_known, value))
    return {key: _known(part) for key, part in value.items()} if type(value) is dict else value
