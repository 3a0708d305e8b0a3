"""Maps of any rank as rows of positions, and their deviation over space.

All are functions that `torch.fx` keeps whole, since they ask for the rank or the size of a map.
"""

from __future__ import annotations

import torch
from torch import fx


@fx.wrap
def positions(x: torch.Tensor) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C, S); a vector is a map of one position."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)


@fx.wrap
def shaped_like(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(N, K, S) -> (N, K, *spatial of x), the way back from `positions`."""
    return flat.reshape(list(flat.shape[:2]) + list(x.shape[2:]))  # for torch.jit


@fx.wrap
def deviation(flat: torch.Tensor, eps: float, unbiased: bool) -> torch.Tensor:  # noqa: FBT001  # for torch.jit
    """(N, K, S) -> (N, K, 1): sqrt(variance + eps); the unbiased variance of one position is taken as 0."""
    variance = flat.var(2, correction=0, keepdim=True)
    if unbiased:
        # A tensor, so that exported programs take maps of any size.
        count = torch.full([1], flat.shape[2], dtype=flat.dtype, device=flat.device)
        variance = variance * (count / (count - 1).clamp(min=1))
    return (variance + eps).sqrt()
