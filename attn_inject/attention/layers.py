"""What several attentions on maps are made of: convolutions of any rank, a batch norm for small batches, strips.

What asks for the rank or the size of a map is a function that `torch.fx` keeps whole, as in `gating`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import AttentionError
from .gating import choice, whole_number

_CONVOLUTIONS = {"1": nn.Conv1d, "2": nn.Conv2d, "3": nn.Conv3d}


def convolution(ndim: int) -> Any:
    """The convolution for maps of `ndim` spatial axes.

    Raises:
        AttentionError: there is none.

    """
    return choice(_CONVOLUTIONS, "ndim", str(ndim))


def odd(label: str, value: object) -> int:
    """`value`, a kernel size that keeps a map's size.

    Raises:
        AttentionError: it is not odd and positive.

    """
    size = whole_number(label, value)
    if size % 2 == 0:
        raise AttentionError(f"{label} must be odd, got {size}: {size - 1} or {size + 1}")
    return size


def per_axis(label: str, value: int | Sequence[int], ndim: int) -> list[int]:
    """A whole number for each of `ndim` spatial axes, from one for all or one for each.

    Raises:
        AttentionError: another number of them, or one below 1.

    """
    each = [value] * ndim if isinstance(value, int) else list(value)
    if len(each) != ndim:
        raise AttentionError(f"{label} must be one number, or one for each of {ndim} axes, got {value!r}")
    return [whole_number(label, one) for one in each]


@fx.wrap
def batch_normed(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    count: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    training: bool,  # noqa: FBT001  # for torch.jit
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """A batch norm that takes its running statistics where the batch has no more than one value per channel."""
    if training and x.numel() > x.size(1):
        count.add_(1)
        return F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)  # noqa: FBT003
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)  # noqa: FBT003


class Norm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of maps of any rank, (N, C, *spatial) -> the same shape.

    While training, one value per channel has no variance: a plain batch norm raises an error there (a last batch of one
    image, behind a global pool). This one normalizes such a batch by its running statistics, as in eval mode, and
    leaves them as they are.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        mean, var, count, momentum = self.running_mean, self.running_var, self.num_batches_tracked, self.momentum
        assert mean is not None
        assert var is not None
        assert count is not None
        assert momentum is not None
        return batch_normed(x, mean, var, count, self.weight, self.bias, self.training, momentum, self.eps)


class Groups(nn.GroupNorm):
    """Group norm, also of one value alone: it is the bias then, where `nn.GroupNorm` raises an error."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


@fx.wrap
def spatial_max(x: torch.Tensor) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C): the maximum over the spatial axes."""
    return x.amax([axis for axis in range(2, x.dim())])  # noqa: C416  # for torch.jit


@fx.wrap
def strip_mean(x: torch.Tensor, axis: int) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C, S), S the extent of `axis`: the mean over the other spatial axes."""
    others: list[int] = []
    for other in range(2, x.dim()):  # torch.jit knows no comprehension with a condition
        if other != axis:
            others.append(other)  # noqa: PERF401
    # torch takes no axes for all axes.
    return x.mean(others) if len(others) > 0 else x


@fx.wrap
def along(weights: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """(N, C, S) -> (N, C, 1, .., S, .., 1): S on `axis` of `x`, in its type."""
    sizes = [x.size(axis) if other == axis else 1 for other in range(2, x.dim())]
    return weights.reshape([weights.size(0), weights.size(1)] + sizes).to(x.dtype)  # noqa: RUF005  # for torch.jit


@fx.wrap
def grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, C, *spatial) -> (N * groups, C / groups, *spatial)."""
    return x.reshape([x.size(0) * groups, x.size(1) // groups] + list(x.shape[2:]))  # noqa: RUF005  # for torch.jit


@fx.wrap
def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """`x`, in float32 if it is of half precision, where squares and sums of products overflow."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x
