"""Tensors from a file, in memory as torch itself would have made it.

A file packs its tensors without gaps, so that most of them start where no allocator would put them. Kernels choose
their way by alignment: the same weights then give other last bits, and give them more slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

ALIGNMENT = 64
"""Bytes: the least that torch's CPU allocator aligns to."""


def aligned(tensor: torch.Tensor, moved: dict[tuple[Any, ...], torch.Tensor]) -> torch.Tensor:
    """`tensor` itself if it has a whole, aligned storage of its own; else a copy that has, in the same strides.

    An expanded tensor stays as it is: written out it could take any multiple of its file's bytes. `moved` remembers the
    copies, so that what was one tensor under two names still is: pass the same dict for all tensors of a file.
    """
    own, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if own == 0 or own > held or (own == held and tensor.data_ptr() % ALIGNMENT == 0):
        return tensor
    place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if place not in moved:
        moved[place] = tensor.clone(memory_format=torch.preserve_format)
    return moved[place]


def all_aligned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor by its name, `aligned`."""
    moved: dict[tuple[Any, ...], torch.Tensor] = {}
    return {name: aligned(tensor, moved) for name, tensor in tensors.items()}
