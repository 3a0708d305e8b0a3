"""Functions of torch that take no tensor, and so hide from a trace: factories of sizes, and random draws."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from ..errors import TraceError

# Their arguments are parsed before torch asks whether somebody else wants to answer.
_FACTORIES = (
    "arange", "empty", "eye", "finfo", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm",
    "tensor", "zeros",
)  # fmt: skip
_DRAWS = frozenset({torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli})

Record = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def factories_followed(record: Record, quiet: Callable[[], bool]) -> Iterator[None]:
    """Let `record(function, args, kwargs)` have every factory that is given a proxy, and every draw.

    Nothing is recorded while `quiet()` is true.
    """
    # torch notes which functions make tensors, and which can be overridden, when it is first asked: not while others
    # stand in their places.
    with torch.device("meta"):
        torch.empty(())
    is_tensor_method_or_property(torch.Tensor.add)
    kept = {name: getattr(torch, name) for name in _FACTORIES}
    owner = threading.get_ident()
    for name, function in kept.items():
        setattr(torch, name, _asking(function, record, lambda: threading.get_ident() != owner or quiet()))
    try:
        with _Following(record, quiet):
            yield
    finally:
        for name, function in kept.items():
            setattr(torch, name, function)


def _asking(function: Callable[..., Any], record: Record, quiet: Callable[[], bool]) -> Any:
    def asked(*args: Any, **kwargs: Any) -> Any:
        if not quiet() and (function in _DRAWS or _has_proxies(args) or _has_proxies(kwargs)):
            return record(function, args, kwargs)
        return function(*args, **kwargs)

    return asked


class _Following(TorchFunctionMode):
    """Hands to the trace what torch would take apart itself: real tensors indexed by proxies, draws."""

    def __init__(self, record: Record, quiet: Callable[[], bool]) -> None:
        self._record = record
        self._quiet = quiet

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._quiet():
            return func(*args, **kwargs)
        if _has_proxies(args) or _has_proxies(kwargs):
            return fx.Proxy.__torch_function__(func, types, args, kwargs)
        return self._record(func, args, kwargs) if func in _DRAWS else func(*args, **kwargs)


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


class Draws:
    """The states of the generators that a model's code may draw from while it is traced."""

    def __init__(self) -> None:
        self._before = _states()

    def refuse_new_ones(self) -> None:
        """Compare the states with those of now.

        Raises:
            TraceError: something was drawn, which the graph would hold for ever.

        """
        after = _states()
        drawn = [name for name, state in self._before.items() if state != after[name]]
        if drawn:
            raise TraceError(
                f"the model's code draws from {' and '.join(drawn)} in its forward, which a graph would freeze: "
                "draw them with torch's own functions, or use attach(), which runs the model's own code"
            )


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"Python's random": random.getstate(), "torch": bytes(torch.get_rng_state().numpy())}
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *rest = numpy.random.get_state()
        states["numpy.random"] = (kind, keys.tobytes(), *rest)
    return states
