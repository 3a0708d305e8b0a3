"""Means over windows of a map, as one small matrix per axis: any rank, deterministic, exported for maps of any size.

torch's own have another function per rank, backward passes on CUDA that add up in no fixed order, and, for adaptive
pooling to sizes that are left open, no ONNX form. The numbers are the same.
"""

from __future__ import annotations

import torch
from torch import fx


def _along(x: torch.Tensor, axis: int, first: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """x with `axis` replaced by the means from each position in `first` up to that in `after`, inside the map."""
    at = torch.arange(x.shape[axis], device=x.device).unsqueeze(1)
    inside = ((at >= first) & (at < after)).to(x.dtype)
    means = x.transpose(axis, -1) @ (inside / inside.sum(0, keepdim=True))
    # Laid out anew: what torch.export asks of the strides of an open size would close it.
    return means.transpose(axis, -1).contiguous()


@fx.wrap
def resized(x: torch.Tensor, like: torch.Tensor | None, size: list[int]) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C, *size), or the spatial size of `like`: adaptive average pooling, both ways.

    Cell i of n over an axis of extent L is the mean from floor(i L / n) to ceil((i + 1) L / n).
    """
    for axis in range(x.dim() - 1, 1, -1):
        extent = x.shape[axis]
        cells = size[axis - 2] if like is None else like.shape[axis]
        cell = torch.arange(cells, device=x.device).unsqueeze(0)
        first = torch.div(cell * extent, cells, rounding_mode="floor")
        after = torch.div((cell + 1) * extent + (cells - 1), cells, rounding_mode="floor")
        x = _along(x, axis, first, after)
    return x


@fx.wrap
def strided_means(x: torch.Tensor, stride: int) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C, *spatial / stride, rounded up): 2 stride - 1 positions around every stride-th one."""
    for axis in range(x.dim() - 1, 1, -1):
        cells = (x.shape[axis] + stride - 1) // stride
        centre = torch.arange(cells, device=x.device).unsqueeze(0) * stride
        x = _along(x, axis, centre - (stride - 1), centre + stride)
    return x
