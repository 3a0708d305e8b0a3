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

from .nodes import numbers_of, set_numbers, value_of
from .writes import index_assign

_MOST = 4096
# Whose functions compute what they are given, and nothing else.
_PLAIN = ("torch", "_operator", "operator", "math", "builtins")
_MOVES = ("cpu", "cuda", "xpu", "mps", "to")
# Methods that take a tensor for its type alone, and which of their arguments that is.
_OF_THE_TYPE = {"new_tensor": 0, "new_zeros": 0, "new_ones": 0, "new_full": 0, "to": 1, "type_as": 1}


def computed(node: fx.Node) -> torch.Tensor | float | None:
    """What the node gives, in numbers: of a tensor, or one; None where a map, a weight or a draw is in it, and of many.

    Where the operation writes into a tensor, whatever shares numbers with that one has none from here on.
    """
    place = _OF_THE_TYPE.get(str(node.target), len(node.args)) if node.op == "call_method" else len(node.args)
    typed = node.args[place : place + 1]
    others = [part for part in tree_leaves((node.args[:place], node.args[place + 1 :], node.kwargs)) if part in typed]
    if others or not _is_plain(node) or not all(_is_known(each, typed) for each in node.all_input_nodes):
        return None
    given: dict[fx.Node, torch.Tensor] = {}
    try:
        with torch.device("cpu"), torch.no_grad(), _Repeatable():  # type: ignore[no-untyped-call]
            found = _run(node, given)
    except Exception:
        # Of an operation that only somebody else's device has, for example.
        return None
    for each in [each for each, copied in given.items() if copied._version]:
        _forget(each)
    if isinstance(found, torch.Tensor):
        return found if found.numel() <= _MOST else None
    return found if isinstance(found, (bool, int, float)) else None


def _is_known(node: fx.Node, typed: tuple[Any, ...]) -> bool:
    if numbers_of(node) is not None or not _holds_tensors(value_of(node)):
        return True
    return node in typed and isinstance(value_of(node), torch.Tensor)


def _forget(node: fx.Node) -> None:
    """Take their numbers from a tensor that is written into, and from all that may share memory with it."""
    pending = [node]
    while pending:
        each = pending.pop()
        if numbers_of(each) is not None:
            set_numbers(each, None)
            pending += [*each.all_input_nodes, *each.users]


def may_have_numbers(value: Any) -> bool:
    """Whether it is a tensor, and one of so few numbers that they are computed."""
    return isinstance(value, torch.Tensor) and value.numel() <= _MOST


def run_on_numbers(node: fx.Node) -> Any:
    """What the node gives of the numbers of its tensors, and of plain values."""
    return _run(node, {})


def _run(node: fx.Node, given: dict[fx.Node, torch.Tensor]) -> Any:
    """`run_on_numbers`, which puts down what it gives to the operation in the place of each node."""

    def in_numbers(each: fx.Node) -> Any:
        value, numbers = value_of(each), numbers_of(each)
        if numbers is None and not isinstance(value, torch.Tensor):
            return value
        # A copy, since the operation may write into it.
        given[each] = torch.zeros(0, dtype=value.dtype) if numbers is None else numbers.clone()
        return given[each]

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), in_numbers)
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
