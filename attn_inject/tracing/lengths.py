"""How many parts a value has, and what that hangs on: the size of an axis, or what the caller gives.

Code that goes over the parts of a split, or over a list that is an input, is unrolled in a graph, which holds for so
many parts.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .nodes import value_of

# With a number: their place in the arguments is that of the axis, less one.
_BY_SIZE = {"split": 2, "chunk": 2, "unsafe_split": 2, "unsafe_chunk": 2, "unbind": 1}


def is_given(node: fx.Node) -> bool:
    """Whether the value is an input that is no tensor, or is taken out of one: a list, a dict, a number."""
    while node.op == "call_function" and node.target in (operator.getitem, getattr, operator.contains):
        if isinstance(value_of(node.args[0]), torch.Tensor):  # type: ignore[arg-type]
            return False
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "placeholder" and not isinstance(value_of(node), torch.Tensor)


def kind_of(value: Any) -> str:
    """The name of a value's class."""
    return type(value).__name__


def form_of(value: Any) -> str:
    """The same, where lists and tuples are one."""
    return "list" if isinstance(value, (list, tuple)) else kind_of(value)


def has_any(value: Any) -> bool:
    """Whether there is anything in a value."""
    # What `bool` says of a list, in words that torch 2.6's compiler knows.
    return len(value) > 0 if isinstance(value, (list, tuple, dict)) else bool(value)


def is_none(value: Any) -> bool:
    """Whether a value is none."""
    return value is None


def split_axis(node: fx.Node) -> tuple[fx.Node, int] | None:
    """(what is split, the axis whose size says into how many parts) of a value that is such parts, or some of them."""
    while node.target is operator.getitem and isinstance(node.args[1], slice):
        node = node.args[0]  # type: ignore[assignment]
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op not in ("call_method", "call_function") or name not in _BY_SIZE:
        return None
    place = _BY_SIZE[name]
    numbers = [*node.args[1:place], *(node.kwargs[key] for key in _NUMBERS if key in node.kwargs)]
    if any(isinstance(number, (tuple, list)) for number in numbers):
        # The sizes of all parts.
        return None
    axis: Any = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    source: Any = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensor"))
    return (source, axis) if isinstance(axis, int) and isinstance(value_of(source), torch.Tensor) else None


_NUMBERS = ("split_size_or_sections", "split_size", "chunks")


def size_split(node: fx.Node) -> int | None:
    """The size of the axis that is split; None if the value is no parts of a split."""
    found = split_axis(node)
    return None if found is None else int(value_of(found[0]).shape[found[1]])
