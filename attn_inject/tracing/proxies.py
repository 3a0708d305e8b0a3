"""Proxies that tell a trace what plain `torch.fx` forgets: in-place changes, and what a value is.

Where a trace knows its inputs, every node has its value (`values.py`), and its proxy answers from it while the model's
code runs: sizes, types, lengths, attributes, `isinstance`. What passes into an operation stays symbolic (a batch size
is not frozen by `x.view(x.size(0), -1)`); what becomes a Python number or decides a branch goes through the tracer's
`decide`, which makes it a guard.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from .given import has_any, is_given
from .lengths import split_axis
from .nodes import has_value, numbers_of, value_of
from .writes import index_assign, set_data, written


class Unfollowable(Exception):  # noqa: N818  # what it says is a fact of the model's code
    """What the model's code asks for is in the data, which no trace has."""


class FollowingProxy(fx.Proxy):
    """A proxy that follows in-place changes: after one, the name in the model's code stands for the changed value."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.endswith("__") and hasattr(torch.Tensor, name):
            return lambda *args, **kwargs: self._changed("call_method", name, (self, *args), kwargs)
        if not has_value(self.node):
            return fx.Proxy.__getattr__(self, name)
        # An attribute that the value does not have is the model's own AttributeError: its code may ask.
        if callable(getattr(value_of(self.node), name)):
            return fx.Proxy.__getattr__(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    @property
    def data(self) -> Any:
        """What fx would forget when it is set."""
        return vars(self)["data"] if "data" in vars(self) else self.__getattr__("data")

    @data.setter
    def data(self, value: Any) -> None:
        if not isinstance(held := value_of(self.node), torch.Tensor):
            vars(self)["data"] = value
            return
        given = value_of(value.node) if issubclass(type(value), fx.Proxy) else value
        if getattr(given, "shape", None) != held.shape:
            raise Unfollowable("it gives a tensor other data of another shape")
        self.node = self.tracer.create_proxy("call_function", set_data, (self, value), {}).node
        # Memory of its own.
        vars(self).pop("_part_of", None)

    def _changed(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Proxy:
        after = self.tracer.create_proxy(op, target, args, kwargs)
        self.node = after.node
        self._written()
        return self

    def __getitem__(self, index: Any) -> Any:
        part = self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})
        if isinstance(part, FollowingProxy) and isinstance(value_of(self.node), torch.Tensor) and _is_view(index):
            vars(part)["_part_of"] = self
        return part

    def _written(self) -> None:
        """Note that what this is a part of has changed: who reads that from here on reads the change."""
        part = self
        while (whole := vars(part).get("_part_of")) is not None:
            vars(whole).setdefault("_rewritten", {})[id(part)] = part
            part = whole

    def settle(self) -> None:
        """Let the node be that of the value as it is now, after what was written into parts of it."""
        for part in vars(self).pop("_rewritten", {}).values():
            part.settle()
            self.node = self.tracer.create_proxy("call_function", written, (self, part), {}).node

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.itruediv, other)

    def __ifloordiv__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.ifloordiv, other)

    def __imod__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.imod, other)

    def __ipow__(self, other: Any) -> fx.Proxy:
        return self._updated(operator.ipow, other)

    def _updated(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        after = self.tracer.create_proxy("call_function", function, (self, other), {})
        if (whole := vars(self).get("_part_of")) is not None:
            vars(after)["_part_of"] = whole
            after._written()
        return after

    @property
    def __iter__(self) -> Callable[[], Iterator[Any]]:
        # A property: fx reads how many values are unpacked (`n, c, h, w = x.size()`) from the frame that calls it.
        parts = len(self) if has_value(self.node) else _number_of_parts(self.node)
        return super().__iter__ if parts is None else lambda: iter([self[index] for index in range(parts)])

    def __len__(self) -> int:
        if isinstance(value_of(self.node), torch.Tensor):
            return int(self.size(0))
        parts = _number_of_parts(self.node)
        return super().__len__() if parts is None else parts

    def __bool__(self) -> bool:
        if not has_value(self.node):
            return super().__bool__()
        if isinstance(value_of(self.node), torch.Tensor):
            raise Unfollowable("symbolically traced variables cannot be used as inputs to control flow")
        if is_given(self.node):
            return bool(self.tracer.hold(self.node, has_any))  # type: ignore[attr-defined]
        return bool(value_of(self.node))

    def __int__(self) -> int:
        raise Unfollowable("a number of the data is asked for")

    def __float__(self) -> float:
        raise Unfollowable("a number of the data is asked for")

    def __array__(self, *_: Any, **__: Any) -> Any:
        if isinstance(value_of(self.node), (tuple, list)) and all(type(part) is int for part in value_of(self.node)):
            # Sizes, each of which is decided.
            return torch.tensor([operator.index(part) for part in self]).numpy()
        raise Unfollowable("numpy computes with the data")

    def __contains__(self, item: Any) -> bool:
        if isinstance(value_of(self.node), torch.Tensor):
            raise Unfollowable("whether a number is in a tensor is in the data")
        return any(item is part or item == part for part in self)

    def __setitem__(self, index: Any, value: Any) -> None:
        # What `x[index] += y` has written in place is written back here.
        vars(self).get("_rewritten", {}).pop(id(value), None)
        self._changed("call_function", index_assign, (self, index, value), {})


def _is_view(index: Any) -> bool:
    """Whether what is taken surely shares memory with what it is taken from: by numbers and slices alone."""
    return all(
        part is None or part is Ellipsis or isinstance(part, slice) or _is_whole_number(part)
        for part in (index if isinstance(index, tuple) else (index,))
    )


def _is_whole_number(part: Any) -> bool:
    return type(value_of(part.node) if isinstance(part, NumberProxy) else part) is int


class DictProxy(FollowingProxy):
    """A dict whose keys are facts and whose values are not; which keys the model is given is decided."""

    @property
    def __iter__(self) -> Callable[[], Iterator[Any]]:
        return lambda: iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, item: Any) -> bool:
        if is_given(self.node):
            return bool(self.tracer.create_proxy("call_function", operator.contains, (self, item), {}))
        return item in value_of(self.node)

    def keys(self) -> Any:
        if is_given(self.node):
            return list(self.tracer.hold(self.node, tuple))  # type: ignore[attr-defined]
        return list(value_of(self.node))

    def values(self) -> list[Any]:
        return [self[key] for key in self.keys()]

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self[key]) for key in self.keys()]

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self:
            return self[key]
        return default


class SequenceProxy(FollowingProxy):
    """A tuple or a list: sizes, parts of a split, what a module gives; how many there are may be decided by sizes."""

    def __len__(self) -> int:
        if has_value(self.node) and (is_given(self.node) or split_axis(self.node) is not None):
            return int(self.tracer.hold(self.node, len))  # type: ignore[attr-defined]
        return super().__len__()


# What `match` asks before it takes something apart.
Mapping.register(DictProxy)
Sequence.register(SequenceProxy)


class NumberProxy(FollowingProxy):
    """A number that comes of sizes. What Python itself needs as a number is decided, and so a guard."""

    # A number is not iterable, and says so to those who ask by the method.
    __iter__ = None  # type: ignore[assignment]
    __len__ = None  # type: ignore[assignment]
    __contains__ = None  # type: ignore[assignment]
    __setitem__ = None  # type: ignore[assignment]

    def _decide(self, convert: Callable[[Any], Any]) -> Any:
        return self.tracer.decide(self.node, convert)  # type: ignore[attr-defined]

    def __bool__(self) -> bool:
        return bool(self._decide(bool))

    def __int__(self) -> int:
        return int(self._decide(int))

    def __float__(self) -> float:
        return float(self._decide(float))

    def __index__(self) -> int:
        return int(self._decide(operator.index))

    def __complex__(self) -> complex:
        return complex(self._decide(complex))

    def __str__(self) -> str:
        return str(self._decide(_as_it_is))

    def __format__(self, spec: str) -> str:
        return format(self._decide(_as_it_is), spec)

    def __hash__(self) -> int:
        return hash(self._decide(_as_it_is))

    def __array__(self, *_: Any, **__: Any) -> Any:
        return torch.tensor(self._decide(_as_it_is)).numpy()

    def __round__(self, *digits: int) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, *digits), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __trunc__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.trunc, (self,), {})

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other


class NumbersProxy(FollowingProxy):
    """A tensor that comes of sizes alone. What Python asks of its numbers is decided, as with a single size."""

    def _decide(self, convert: Callable[[Any], Any]) -> Any:
        if numbers_of(self.node) is None:
            raise Unfollowable("a number of a tensor is asked for that was written into under another name")
        return self.tracer.decide(self.node, convert)  # type: ignore[attr-defined]

    def __bool__(self) -> bool:
        return bool(self._decide(bool))

    def __int__(self) -> int:
        return int(self._decide(int))

    def __float__(self) -> float:
        return float(self._decide(float))

    def __index__(self) -> int:
        return int(self._decide(operator.index))

    def __contains__(self, item: Any) -> bool:
        return item in self.tolist()

    def __array__(self, *_: Any, **__: Any) -> Any:
        numbers = self.tracer.decide(self.tolist().node, _as_it_is)  # type: ignore[attr-defined]
        return torch.tensor(numbers, dtype=value_of(self.node).dtype).numpy()


class PlaceProxy(FollowingProxy):
    """A device or a type: code may keep things by it, and finds them by equality, which is checked."""

    def __hash__(self) -> int:
        return hash(value_of(self.node))

    def __str__(self) -> str:
        return str(self.tracer.decide(self.node, str))  # type: ignore[attr-defined]

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def _as_it_is(value: Any) -> Any:
    return value


def proxy_for(node: fx.Node, tracer: fx.Tracer) -> fx.Proxy:
    """The proxy of a node, by the value that it has."""
    value = value_of(node)
    if isinstance(value, (bool, int, float, complex)):
        return NumberProxy(node, tracer)
    if numbers_of(node) is not None:
        return NumbersProxy(node, tracer)
    if isinstance(value, (torch.device, torch.dtype)):
        return PlaceProxy(node, tracer)
    if isinstance(value, (tuple, list)):
        return SequenceProxy(node, tracer)
    return (DictProxy if isinstance(value, dict) else FollowingProxy)(node, tracer)


def _number_of_parts(node: fx.Node) -> int | None:
    """How many tensors a chunk or a split gives, where its arguments say so: what lets code iterate over them.

    A chunk of fewer channels than chunks gives fewer; then the shapes say so, with an error that names the node.
    """
    if has_value(node):
        value = value_of(node)
        return len(value) if isinstance(value, (tuple, list)) else None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name not in ("chunk", "split", "tensor_split") or not node.args:
        return None
    given = node.args[1] if len(node.args) > 1 else next((node.kwargs[k] for k in _COUNTS if k in node.kwargs), None)
    if isinstance(given, (tuple, list)):
        return len(given) + (name == "tensor_split")
    return given if isinstance(given, int) and name != "split" else None


_COUNTS = ("chunks", "split_size_or_sections", "split_size", "indices_or_sections", "sections", "indices")
_SHAPE_FACTS = ("shape", "ndim", "size", "dim", "numel", "nelement", "ndimension")


class WeightProxy(FollowingProxy):
    """A parameter or buffer: its values are read at run time, and its type and device, but its shape is a fact."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, held: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self._held = held

    def __getattr__(self, name: str) -> Any:
        if name in _SHAPE_FACTS or (name == "dtype" and not has_value(self.node)):
            return getattr(self._held, name)
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(self._held)
