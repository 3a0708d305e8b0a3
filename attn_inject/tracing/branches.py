"""The branches of `torch.cond`, which runs one: where a model is read, the other one's blocks are blocks too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

COND: Any = torch.ops.higher_order.cond


def both_run(pred: torch.Tensor, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any = ()) -> Any:
    """What `torch.cond` gives, chosen from what both branches give: neither may do more than that."""

    def chosen(one: Any, other: Any) -> Any:
        return torch.where(pred, one, other) if isinstance(one, torch.Tensor) else one

    return tree_map(chosen, true_fn(*operands), false_fn(*operands))


def taken_run(pred: torch.Tensor, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any = ()) -> Any:
    """What `torch.cond` gives, by the code of the branch that it takes."""
    return (true_fn if pred else false_fn)(*operands)


class Branches(TorchFunctionMode):
    """Within it, `run` stands in the place of `torch.cond`: one of those above."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not COND:
            return func(*args, **(kwargs or {}))
        with self:
            return self._run(*args, **(kwargs or {}))
