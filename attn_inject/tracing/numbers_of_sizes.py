"""Tensors that code makes of sizes alone: their numbers are facts of the input's size, as the sizes are.

`torch.arange(2, x.ndim)` and `torch.ceil(torch.as_tensor(h / 8))` would have no numbers on the meta device, and code
that asks for one (`int(...)`, `.item()`, an `if`) no answer. So a small tensor is computed for real as well where every
part of it is a size or a number. Draws and uninitialised memory are nobody's facts; nor are tensors that the model
holds, into which its code may count its runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .nodes import numbers_of, value_of
from .writes import index_assign

_MOST = 4096
# Whose functions compute what they are given, and nothing else.
_PLAIN = ("torch", "_operator", "operator", "math", "builtins")
_MOVES = ("cpu", "cuda", "xpu", "mps", "to")


def computed(node: fx.Node) -> torch.Tensor | None:
    """The numbers of the tensor that the node gives; None where a map, a weight or a draw is in it, and of many."""
    if not _is_plain(node) or any(
        numbers_of(each) is None and _holds_tensors(value_of(each)) for each in node.all_input_nodes
    ):
        return None
    try:
        with torch.device("cpu"), torch.no_grad(), _Repeatable():  # type: ignore[no-untyped-call]
            numbers = run_on_numbers(node)
    except Exception:
        # Of an operation that only somebody else's device has, for example.
        return None
    return numbers if isinstance(numbers, torch.Tensor) and numbers.numel() <= _MOST else None


def may_have_numbers(value: Any) -> bool:
    """Whether it is a tensor, and one of so few numbers that they are computed."""
    return isinstance(value, torch.Tensor) and value.numel() <= _MOST


def run_on_numbers(node: fx.Node) -> Any:
    """What the node gives of the numbers of its tensors, and of plain values."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), _as_numbers)
    args, kwargs = tree_map(_on_cpu, (args, kwargs), is_leaf=lambda part: type(part) is torch.Size)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if node.op != "call_method":
        return node.target(*args, **kwargs)  # type: ignore[operator]
    target, *rest = args
    if node.target in _MOVES:
        rest = [part for part in rest if not isinstance(part, (str, torch.device))]
        return target.to(*rest, **kwargs) if node.target == "to" and (rest or kwargs) else target
    return getattr(target, str(node.target))(*rest, **kwargs)


def _as_numbers(node: fx.Node) -> Any:
    numbers = numbers_of(node)
    # A copy, since the operation may write into it.
    return value_of(node) if numbers is None else numbers.clone()


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _is_plain(node: fx.Node) -> bool:
    if node.op != "call_function":
        return node.op == "call_method"
    home = getattr(node.target, "__module__", None) or "torch"
    return node.target is index_assign or home.partition(".")[0] in _PLAIN


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, torch.Tensor) for part in tree_leaves(value))


class _Repeatable(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what would give other numbers another time."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags or "empty" in func.name():
            msg = f"{func} gives other numbers another time"
            raise RuntimeError(msg)
        return func(*args, **(kwargs or {}))
