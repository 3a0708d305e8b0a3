"""Regions of a model's code in which gradients or autocast are switched: `with torch.no_grad():` and the like.

A trace sees operations, not the `with` around them. What such a block switches is noticed while tracing, and the switch
becomes nodes of the graph, with torch's own functions, which its compilers know too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

GRAD_MODE, SET_GRAD_MODE = torch.is_grad_enabled, torch._C._set_grad_enabled
_REGION = (GRAD_MODE, SET_GRAD_MODE, _enter_autocast, _exit_autocast)


def is_region(target: Any) -> bool:
    """Whether a node of this target begins or ends a region, or asks in which one it runs."""
    return any(target is function for function in _REGION)


@contextmanager
def ordinary_mode() -> Iterator[None]:
    """With gradients, whatever region the caller is in: parameters made here are to be trained."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def restoring_grad_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, after which gradients are as they were before it, even if an error ends it within a region."""

    @functools.wraps(forward)
    def restoring(*args: Any, **kwargs: Any) -> Any:
        before = torch.is_grad_enabled()
        try:
            return forward(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(before)

    return restoring


class GradMode:
    """Switches gradients in a graph where the code that it is made of has switched them; `make` makes its nodes."""

    def __init__(self, make: Callable[..., fx.Node]) -> None:
        self._make = make
        # What it was before it was switched off.
        self._before: fx.Node | None = None

    def follow(self) -> None:
        """Put down a switch since the last node."""
        if torch.is_grad_enabled() == (self._before is None):
            return
        if self._before is None:
            self._before = self._make("call_function", GRAD_MODE, (), {})
            self._make("call_function", SET_GRAD_MODE, (False,), {})
        else:
            before, self._before = self._before, None
            self._make("call_function", SET_GRAD_MODE, (before,), {})


@contextmanager
def autocast_followed(create: Callable[[Any, tuple[Any, ...]], Any], quiet: Callable[[], bool]) -> Iterator[None]:
    """Let `create(function, arguments)` record every `with torch.autocast(...)` that is entered and left in here.

    Nothing is recorded while `quiet()` is true.
    """
    enter: Callable[..., Any] = torch.autocast.__enter__
    leave: Callable[..., Any] = torch.autocast.__exit__
    opened: dict[int, Any] = {}

    def entered(self: torch.autocast) -> Any:
        if not quiet():
            arguments = (self.device, self.fast_dtype, self._enabled, self._cache_enabled)
            opened[id(self)] = create(_enter_autocast, arguments)
        return enter(self)

    def left(self: torch.autocast, *error: Any) -> Any:
        if id(self) in opened:
            create(_exit_autocast, (opened.pop(id(self)),))
        return leave(self, *error)

    torch.autocast.__enter__, torch.autocast.__exit__ = entered, left  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]
