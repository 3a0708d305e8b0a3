"""Proxies that tell a trace what plain `torch.fx` forgets: in-place changes, and that a weight's shape is a fact."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx


class FollowingProxy(fx.Proxy):
    """A proxy that follows in-place changes: after one, the name in the model's code stands for the changed value."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.endswith("__") and hasattr(torch.Tensor, name):
            return lambda *args, **kwargs: self._changed("call_method", name, (self, *args), kwargs)
        return super().__getattr__(name)

    def _changed(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Proxy:
        after = self.tracer.create_proxy(op, target, args, kwargs)
        self.node = after.node
        return self

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    @property
    def __iter__(self) -> Callable[[], Iterator[Any]]:
        # A property: fx reads how many values are unpacked (`n, c, h, w = x.size()`) from the frame that calls it.
        parts = _number_of_parts(self.node)
        return super().__iter__ if parts is None else lambda: iter([self[index] for index in range(parts)])  # type: ignore[index]

    def __len__(self) -> int:
        parts = _number_of_parts(self.node)
        return super().__len__() if parts is None else parts

    def __setitem__(self, index: Any, value: Any) -> None:
        self._changed("call_function", index_assign, (self, index, value), {})


def _number_of_parts(node: fx.Node) -> int | None:
    """How many tensors a chunk or a split gives, where its arguments say so: what lets code iterate over them.

    A chunk of fewer channels than chunks gives fewer; then the shapes say so, with an error that names the node.
    """
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name not in ("chunk", "split", "tensor_split") or not node.args:
        return None
    given = node.args[1] if len(node.args) > 1 else next((node.kwargs[k] for k in _COUNTS if k in node.kwargs), None)
    if isinstance(given, (tuple, list)):
        return len(given) + (name == "tensor_split")
    return given if isinstance(given, int) and name != "split" else None


_COUNTS = ("chunks", "split_size_or_sections", "split_size", "indices_or_sections", "sections", "indices")
_SHAPE_FACTS = ("shape", "ndim", "dtype", "size", "dim", "numel", "nelement", "ndimension")


class WeightProxy(FollowingProxy):
    """A parameter or buffer: its values are read at run time, but its shape is a fact of the model."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, held: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self._held = held

    def __getattr__(self, name: str) -> Any:
        if name in _SHAPE_FACTS:
            return getattr(self._held, name)
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(self._held)


def index_assign(target: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """`target[index] = value`, as a function that gives the changed tensor back, so that a graph can follow it."""
    target[index] = value
    return target
