"""Calls of a module that run the block, though none of its hooks: torch tells nobody of them.

- `block.forward(x)`, by its name. So that what runs in one is the block's, each module has for a while a `forward` of
  its own among its attributes, which `super().forward(x)` does not ask for.
- `block(x)` where the block's class has a `__call__` of its own that goes on to no other and to no `forward`: the class
  has another for a while.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

from torch import nn

BareCall = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class BareCalls:
    """Hands bare calls to `called(module, forward, args, kwargs)`, within `told`."""

    def __init__(self, called: BareCall) -> None:
        self._called = called
        self._expected: dict[int, int] = {}

    @contextmanager
    def told(self, skeleton: nn.Module, *, but_in: Callable[[nn.Module, str], bool]) -> Iterator[None]:
        """Tell of the bare calls of modules of `skeleton` in here, but of those for which `but_in(module, path)`."""
        followed = [module for path, module in skeleton.named_modules() if path and not but_in(module, path)]
        own = [(module, vars(module).get("forward")) for module in followed]
        for module, _ in own:
            vars(module)["forward"] = _Told(module, module.forward, self)
        try:
            with ExitStack() as stack:
                known = {id(module) for module in followed}
                for kind in {home for module in followed if (home := home_of_own_call(type(module)))}:
                    stack.enter_context(self._calls_told(kind, known))
                yield
        finally:
            for module, forward in own:
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = forward

    @contextmanager
    def _calls_told(self, kind: type[nn.Module], followed: set[int]) -> Iterator[None]:
        own = vars(kind)["__call__"]

        @functools.wraps(own)
        def told(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if id(module) not in followed:
                return own(module, *args, **kwargs)
            return self._called(module, functools.partial(own, module), args, kwargs)

        kind.__call__ = told  # type: ignore[method-assign]
        try:
            yield
        finally:
            kind.__call__ = own  # type: ignore[method-assign]

    @contextmanager
    def expected(self, module: nn.Module) -> Iterator[None]:
        """The next call of this module's `forward` in here is torch's, or our own."""
        before = self._expected.get(id(module), 0)
        self._expected[id(module)] = before + 1
        try:
            yield
        finally:
            self._expected[id(module)] = before

    def call(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What a call of `forward` gives: one that was expected, or a bare one."""
        if waiting := self._expected.get(id(module), 0):
            self._expected[id(module)] = waiting - 1
            return forward(*args, **kwargs)
        return self._called(module, forward, args, kwargs)


class _Told:
    """A module's forward that tells of its calls. For the rest it is that forward: fx asks it for its file's names."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any], calls: BareCalls) -> None:
        self._module, self._calls, self.__wrapped__ = module, calls, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls.call(self._module, self.__wrapped__, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the module that code makes meanwhile has a forward of its own.
        return copy.deepcopy(self.__wrapped__, memo)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


def home_of_own_call(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class from which `kind` has a `__call__` that runs no forward of the module; None where torch's runs.

    One that goes on to another `__call__`, or to a `forward`, is heard of there. What a decorator made may go on to
    anything.
    """
    home = next(base for base in kind.__mro__ if "__call__" in vars(base))
    own = vars(home)["__call__"]
    if home is nn.Module or not isinstance(own, FunctionType) or own.__module__.partition(".")[0] == "torch":
        return None
    code = own.__code__
    goes_on = {*code.co_freevars} - {"__class__"} or _GOING_ON & {*code.co_names}
    return None if goes_on else home


_GOING_ON = frozenset({"__call__", "_call_impl", "_wrapped_call_impl", "forward"})
