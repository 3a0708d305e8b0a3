"""What a graph or a recording calls where code writes into a value: the changed value comes back to be followed."""

from __future__ import annotations

from typing import Any

import torch


def index_assign(target: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """`target[index] = value`, as a function that gives the changed tensor back."""
    target[index] = value
    return target


def set_data(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`target.data = value`, as a function that gives the changed tensor back."""
    target.data = value
    return target


def written(target: torch.Tensor, part: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # says what flows where
    """`target` after something was written into `part`, a view of it.

    It writes nothing: autograd may keep what is there.
    """
    return target
