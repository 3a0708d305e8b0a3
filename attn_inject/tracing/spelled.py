"""How what was called is spelled: as a graph does, and in functions of its own that only say what flows.

And which calls write into what they are given.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from .writes import index_assign


def made_from(*sources: torch.Tensor) -> torch.Tensor:
    """What operators make of `sources` that no function of torch's was called for; says what flows where."""
    raise NotImplementedError(f"a recording is not run: {len(sources)} values")


def plain_name(function: Any) -> str:
    """The name of a function of torch, or of anything that has one: `add_` for `torch.ops.aten.add_.Tensor` too."""
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    return str(getattr(function, "__name__", function))


def written(function: Any) -> Any:
    """What code wrote to call it, as far as an operator may be known by several functions: `mul` for `*` and `*=`.

    A trace is told of the one (`operator.imul`), a recording of another (`Tensor.mul_`); whatever is no operator, nor
    named like one, is itself.
    """
    name = plain_name(function).strip("_")
    for known in (name[1:], name) if name[:1] in ("i", "r") else (name,):  # in place, or with the operands in turn
        plain = _SYNONYMS.get(known, known)
        if hasattr(operator, plain) or hasattr(operator, f"{plain}_"):
            return plain
    return function


# torch's names for what Python's operators do.
_SYNONYMS = {
    "div": "truediv", "divide": "truediv", "true_divide": "truediv", "floor_divide": "floordiv", "remainder": "mod",
    "multiply": "mul", "subtract": "sub", "negative": "neg", "bitwise_not": "invert",
}  # fmt: skip


def spelling(function: Any) -> tuple[str, Any, bool]:
    """How a graph calls a function of torch: (op, target, whether with its two operands in turn)."""
    if isinstance(function, OpOverload):
        return "call_function", function.overloadpacket, False
    name = plain_name(function)
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


# Of the functions that end in an underscore, those that change no number.
_FLAGS = frozenset({"requires_grad_", "detach_", "share_memory_", "rename_", "sparse_resize_"})
_OPERATORS = {"__iadd__": "add_", "__isub__": "sub_", "__imul__": "mul_", "__itruediv__": "div_"}


def is_writing(name: str) -> bool:
    """Whether a method or function of this name writes into the first of what it is given: `mul_`, `_foreach_mul_`."""
    return name.endswith("_") and not name.endswith("__") and name not in _FLAGS


def writing_method(function: Callable[..., Any]) -> str | None:
    """The method that writes into its tensor, if `function` is one: "mul_" for `tensor *= 2` too."""
    name = plain_name(function)
    is_method = is_writing(name) and not name.startswith("_")
    return name if is_method else _OPERATORS.get(name)


def written_into(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that a call of a function of torch writes into."""
    name = plain_name(function)
    sets = name == "__setitem__" or (name == "__set__" and attribute(function) == "data")
    if not (sets or is_writing(name) or name in _OPERATORS or "out" in kwargs):
        return []
    given = [*(args[0] if isinstance(args[0], (list, tuple)) else args[:1]), kwargs.get("out")] if args else []
    return [each for each in given if isinstance(each, torch.Tensor)]
