"""The whole numbers and truth values that a caller gave, which a tensor on the meta device knows beside its shape.

Code looks things up by them (classes, lengths, masks), so that trials run on them and not on others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_MOST = 2**20


@dataclass(frozen=True)
class Numbers:
    """The whole numbers or truth values that a caller gave, and with how many images."""

    held: torch.Tensor
    images: int

    def in_shape(self, shape: torch.Size, images: int) -> torch.Tensor | None:
        """Row by row, and from the first on again; None in another shape, or with fewer images.

        One that a number stands for may be among those that are left out.
        """
        if images < self.images or shape[1:] != self.held.shape[1:] or len(shape) != self.held.dim():
            return None
        return self.held if shape == self.held.shape else self.held[torch.arange(shape[0]) % len(self.held)]


def numbers_of(tensor: torch.Tensor, images: int) -> Numbers | None:
    """Those of a tensor that came with so many images; None of floating-point ones, and of many."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() > _MOST:
        return None
    if tensor.is_meta:
        known: Numbers | None = getattr(tensor, "_numbers", None)
        return known
    return Numbers(tensor.detach().clone(), images)


def with_numbers(shaped: torch.Tensor, numbers: Numbers | None) -> torch.Tensor:
    """A tensor on the meta device that knows them."""
    if numbers is not None:
        shaped._numbers = numbers  # type: ignore[attr-defined]
    return shaped


def whole_numbers(tensor: torch.Tensor, images: int) -> torch.Tensor:
    """Those that a caller gave, for so many images; zeros where nobody did."""
    numbers = numbers_of(tensor, images)
    held = None if numbers is None else numbers.in_shape(tensor.shape, images)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu") if held is None else held
