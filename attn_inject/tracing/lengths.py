"""Into how many parts a split goes, which hangs on the size of an axis.

Code that goes over the parts is unrolled in a graph, which holds for so many.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .nodes import value_of

# With a number: their place in the arguments is that of the axis, less one.
_BY_SIZE = {"split": 2, "chunk": 2, "unsafe_split": 2, "unsafe_chunk": 2, "unbind": 1}


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
