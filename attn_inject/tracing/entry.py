"""How a trace calls the model: placeholders for what it is given, and what stays as it was given or by default."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from .guards import ARGUMENTS, guarded
from .inputs import Inputs, Signature
from .nodes import mark_named, set_value


class Entry:
    """The inputs of `forward` as nodes of `tracer`'s graph.

    `placeholders` are what its function is given, `fixed` the arguments that the graph has no place for.
    """

    def __init__(self, tracer: fx.Tracer, forward: Callable[..., Any], inputs: Inputs | None) -> None:
        signature = Signature.of(forward, inputs)
        self.fixed = signature.fixed
        self._tracer = tracer
        self._forward = forward
        self._has_values = inputs is not None
        self._chosen = {} if inputs is None else inputs.fixed
        self._texts: list[tuple[fx.Node, str]] = []
        self._names = [name for name, _ in signature.named]
        positional = [self._placeholder(name, value) for name, value in signature.positional]
        self._count = len(positional)
        self.placeholders = [
            *positional, *(self._placeholder(name, value, is_named=True) for name, value in signature.named)
        ]  # fmt: skip

    def call(self, _root: nn.Module, *values: Any) -> Any:
        """Run the forward on the placeholders' values."""
        for node, text in self._texts:
            about = (node, text, f"the argument {node.target}", ARGUMENTS)
            self._tracer.create_node("call_function", guarded, about, {})
        named = dict(zip(self._names, values[self._count :], strict=True))
        with _any_name():
            return self._forward(*values[: self._count], **named, **self._chosen)

    def _placeholder(self, name: str, value: Any, *, is_named: bool = False) -> Any:
        node = self._tracer.create_node("placeholder", name, (), {})
        if is_named:
            mark_named(node)
        if self._has_values:
            set_value(node, value)
        if type(value) is not str:
            return self._tracer.proxy(node)
        # Code looks things up by it.
        self._texts.append((node, value))
        return value


# What fx's own stand-in for a module's call calls the module: an argument of that name would be taken for it.
_TAKEN = "mod"
_ASIDE = " mod"


@contextmanager
def _any_name() -> Iterator[None]:
    """Let modules be called with arguments of any name while fx answers for the calls; `as_named` has their names."""
    call = nn.Module.__call__

    @functools.wraps(call)
    def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if _TAKEN in kwargs:
            kwargs[_ASIDE] = kwargs.pop(_TAKEN)
        return call(module, *args, **kwargs)

    nn.Module.__call__ = called  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]


def as_named(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, by the names that they have in the model's code."""
    return {_TAKEN if name == _ASIDE else name: value for name, value in kwargs.items()}
