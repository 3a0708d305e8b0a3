"""Functions that hide from a trace: torch's factories of sizes, random draws, autograd functions, and scripted ones.

An autograd function of somebody's own stays whole, or its backward would be lost; of a scripted one the Python is
followed that it was made of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import BuiltinMethodType, MethodType
from typing import Any

import torch
from torch import fx
from torch.autograd import Variable
from torch.jit import ScriptFunction
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from .nodes import value_of
from .turns import is_turn_of

# Their arguments are parsed before torch, or older versions of it, asks whether somebody else wants to answer.
_FACTORIES = (
    "arange", "as_tensor", "cat", "empty", "empty_like", "eye", "finfo", "full", "full_like", "iinfo", "linspace",
    "logspace", "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "stack",
    "tensor", "zeros", "zeros_like",
)  # fmt: skip
# What asserts a fact of sizes or of data: each with the one that asserts a truth value.
_CHECKS = {
    "_check": "_check", "_check_index": "_check_index", "_check_not_implemented": "_check_not_implemented",
    "_check_tensor_all": "_check", "_check_tensor_all_with": "_check_with", "_check_type": "_check_type",
    "_check_value": "_check_value", "_check_with": "_check_with",
}  # fmt: skip
_BOUND = frozenset({MethodType, BuiltinMethodType})
_DRAWS = frozenset({torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli})

Record = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def factories_followed(
    record: Record, quiet: Callable[[], bool], homes: Iterable[dict[str, Any]] = (), plainly: Record | None = None
) -> Iterator[None]:
    """Let `record(function, args, kwargs)` have every factory that is given a proxy, and every draw.

    Nothing is recorded while `quiet()` is true. Calls with plain tensors alone are `plainly`'s. `homes` are the
    attributes and globals of the model's code, which may hold one of them, an autograd function's `apply`, or
    `Variable`, under a name of their own. `prime` goes before it.
    """
    owner = threading.get_ident()
    over: list[bool] = []

    def aside() -> bool:
        return bool(over) or not is_turn_of(owner) or quiet()

    kept = {name: getattr(torch, name) for name in (*_FACTORIES, *_CHECKS)}
    for name in _FACTORIES:
        setattr(torch, name, _asking(kept[name], kept[name], record, aside))
    for name, plain in _CHECKS.items():
        setattr(torch, name, _deciding(kept[name], kept[plain], aside))
    apply = vars(torch.autograd.Function)["apply"]
    torch.autograd.Function.apply = classmethod(
        lambda cls, *args, **kwargs: _asking(apply.__get__(None, cls), Applied(cls), record, aside)(*args, **kwargs)
    )
    asking = {id(function): getattr(torch, name) for name, function in kept.items()}
    stored = [
        (home, name, value)
        for home in (vars(torch.autograd), *homes)
        for name, value in home.items()
        if value is Variable or id(value) in asking or (type(value) in _BOUND and _applies(value))
    ]
    for home, name, value in stored:
        home[name] = _Variable if value is Variable else asking.get(id(value)) or value.__self__.apply
    try:
        with (
            _constructor_followed(record, kept["empty"], kept["tensor"], aside),
            _Following(record, quiet, plainly or _called),
            scripted_as_written(lambda *given: not aside() and _has_proxies(given)),
        ):
            yield
    finally:
        for home, name, value in stored:
            home[name] = value
        # Whoever has taken one of them along has the function itself from here on.
        over.append(True)
        torch.autograd.Function.apply = apply
        for name, function in kept.items():
            setattr(torch, name, function)


@contextmanager
def _constructor_followed(record: Record, empty: Any, tensor: Any, aside: Callable[[], bool]) -> Iterator[None]:
    """Let `torch.Tensor(n, c)` and `torch.Tensor([n, c])` be what they are short for, where proxies are among that."""
    new, own = torch.Tensor.__new__, vars(torch.Tensor).get("__new__")

    def made(cls: type[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if cls is not torch.Tensor or kwargs or aside() or not _has_proxies(args):
            return new(cls, *args, **kwargs)
        values = [value_of(given.node) if isinstance(given, fx.Proxy) else given for given in args]
        if all(type(value) is int for value in values) or (len(args) == 1 and type(values[0]) is torch.Size):
            return record(empty, args, {})
        if len(args) == 1 and type(args[0]) in (tuple, list):
            return record(tensor, args, {"dtype": torch.get_default_dtype()})
        return new(cls, *args)

    torch.Tensor.__new__ = staticmethod(made)  # type: ignore[assignment]
    try:
        yield
    finally:
        if own is None:
            # It inherits one.
            del torch.Tensor.__new__
        else:
            torch.Tensor.__new__ = own  # type: ignore[method-assign]


def _deciding(check: Callable[..., Any], plain: Callable[..., Any], aside: Callable[[], bool]) -> Callable[..., Any]:
    """`check`, which takes truth values or tensors only, for proxies too: what they come to decides, as in an `if`."""

    def checking(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if aside() or not any(issubclass(type(value), fx.Proxy) for value in given):
            return check(*args, **kwargs)
        return plain(*map(_decided, args), **{name: _decided(value) for name, value in kwargs.items()})

    return checking


def _decided(value: Any) -> Any:
    if not issubclass(type(value), fx.Proxy):
        return value
    return bool(value.all()) if isinstance(value_of(value.node), torch.Tensor) else bool(value)


def _applies(value: Any) -> bool:
    """Whether a bound method is an autograd function's `apply`."""
    if value.__name__ != "apply":
        return False
    return isinstance(value.__self__, type) and issubclass(value.__self__, torch.autograd.Function)


@contextmanager
def scripted_as_written(wanted: Callable[[tuple[Any, ...], dict[str, Any]], bool]) -> Iterator[None]:
    """Let scripted functions run as the Python that they were made of, where `wanted(args, kwargs)`.

    They take no proxies, and nobody sees what they do. torch keeps the Python for its own compiler.
    """
    call = ScriptFunction.__call__

    def called(scripted: Any, *args: Any, **kwargs: Any) -> Any:
        written = getattr(scripted, "_torchdynamo_inline", None)
        if written is None or not wanted(args, kwargs):
            return call(scripted, *args, **kwargs)
        return written(*args, **kwargs)

    ScriptFunction.__call__ = called  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ScriptFunction.__call__ = call  # type: ignore[method-assign]


class _Tensors(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Variable)


class _Variable(metaclass=_Tensors):
    """What old code wraps tensors in: a tensor by another name."""

    def __new__(cls, value: Any = None, *args: Any, **kwargs: Any) -> Any:
        return value if isinstance(value, fx.Proxy) else Variable(value, *args, **kwargs)


def prime() -> None:
    """Let torch note its functions, which it does when it is first asked, before others stand in their places."""
    from torch._dynamo import trace_rules  # which the first value of a trace would import

    # `init_process_group` lets its compiler forget them; made while others stand in their places, the table would lack
    # torch's own, and nothing that calls one could be compiled whole any more.
    trace_rules.get_torch_obj_rule_map()
    with torch.device("meta"):
        torch.empty(())
    is_tensor_method_or_property(torch.Tensor.add)


def _asking(function: Callable[..., Any], recorded: Any, record: Record, aside: Callable[[], bool]) -> Any:
    """`function`, but for calls with proxies and draws, which are recorded as calls of `recorded`."""

    def asked(*args: Any, **kwargs: Any) -> Any:
        if not aside() and (function in _DRAWS or _has_proxies(args) or _has_proxies(kwargs)):
            return record(recorded, args, kwargs)
        return function(*args, **kwargs)

    return asked


class Applied:
    """An autograd function of somebody's own, as a graph calls it: with a name of its own, and fit to pickle."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = function
        self.__name__ = f"{function.__name__}_apply"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.function.apply(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}.apply"


def _called(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


class _Following(TorchFunctionMode):
    """Hands to the trace what torch would take apart itself: real tensors indexed by proxies, draws."""

    def __init__(self, record: Record, quiet: Callable[[], bool], plainly: Record) -> None:
        self._record = record
        self._quiet = quiet
        self._plainly = plainly

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._quiet():
            return func(*args, **kwargs)
        if (_has_proxies(args) or _has_proxies(kwargs)) and func.__name__ != "__set__":
            return fx.Proxy.__torch_function__(func, types, args, kwargs)
        return self._record(func, args, kwargs) if func in _DRAWS else self._plainly(func, args, kwargs)


def _has_proxies(value: Any) -> bool:
    kind = type(value)
    if issubclass(kind, fx.Proxy):
        return True
    if kind in (tuple, list):
        return any(_has_proxies(part) for part in value)
    if kind is dict:
        return any(_has_proxies(part) for part in value.values())
    if kind is slice:
        return any(_has_proxies(part) for part in (value.start, value.stop, value.step))
    return False
