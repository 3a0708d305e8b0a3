"""Whether two passes gave the same, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

PAIRS = "code that goes over the weights of two parts in pairs wants attention in both"
KEEPS = "a second call gives something else than the model's own code, which keeps something from call to call"


def equal_to_the_bit(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs are the same, not-a-numbers included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or (a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num()))


def same_values(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Whether there are as many, each equal to the bit."""
    return len(first) == len(second) and all(map(equal_to_the_bit, first, second))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (
        0.0
        if torch.equal(a, b) or (a != b).logical_and(~(a.isnan() & b.isnan())).sum() == 0
        else float((a - b).detach().abs().max())
    )


def largest_distance(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    return max((distance(a, b) for a, b in zip(first, second, strict=True)), default=0.0)
