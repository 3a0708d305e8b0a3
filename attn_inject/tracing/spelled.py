"""How a recording spells what was called: as a graph does, and in functions of its own that only say what flows."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._ops import OpOverload

from .writes import index_assign


def made_from(*sources: torch.Tensor) -> torch.Tensor:
    """What operators make of `sources` that no function of torch's was called for; says what flows where."""
    raise NotImplementedError(f"a recording is not run: {len(sources)} values")


def spelling(function: Any) -> tuple[str, Any, bool]:
    """How a graph calls a function of torch: (op, target, whether with its two operands in turn)."""
    if isinstance(function, OpOverload):
        return "call_function", function.overloadpacket, False
    name = str(getattr(function, "__name__", function))
    if name == "__setitem__":
        return "call_function", index_assign, False
    if name.startswith("__") and name.endswith("__"):
        plain = name.strip("_")
        if hasattr(operator, plain):
            return "call_function", getattr(operator, plain), False
        if plain.startswith("r") and hasattr(operator, plain[1:]):
            return "call_function", getattr(operator, plain[1:]), True
        return "call_method", name, False
    if getattr(torch.Tensor, name, None) is function:
        return "call_method", name, False
    return "call_function", function, False


def attribute(function: Any) -> str | None:
    """The name of the attribute that is read or set, where the function is one's `__get__` or `__set__`."""
    if getattr(function, "__name__", "") not in ("__get__", "__set__"):
        return None
    held = function.__self__
    return str((held.fget if isinstance(held, property) else held).__name__)  # type: ignore[union-attr]
