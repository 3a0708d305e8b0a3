"""Inputs that are no tensors, lists and dicts of them above all: what code asks of one, the graph holds for.

Code that goes over a list is unrolled for as many as it has, and what it looks for in a dict is there or is not.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .nodes import value_of


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
