"""Sums over space of D and D h, h = (z - mu) / sigma, without a map for the product.

On a CPU torch's own kernel for the gradients of a batch norm's weights takes both in one pass: a map (N, C, H, W) whose
rows lie one after the other is one image of N C channels to it, one in channels-last layout N images. Elsewhere the
product is written.
"""

from __future__ import annotations

import torch


def sums_over_space(
    outer: torch.Tensor, z: torch.Tensor, center: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C, *spatial) twice, mu and 1 / sigma (C) -> sum D and sum D h, (N, C), in the type of mu."""
    if z.device.type == "cpu" and outer.dtype == z.dtype and z.numel():
        if z.is_contiguous() and outer.is_contiguous():
            rows = (1, z.shape[0] * z.shape[1], *z.shape[2:])
            n = z.shape[0]
            sums, normed = _weight_gradients(outer.view(rows), z.view(rows), center.repeat(n), inverse.repeat(n))
            return sums.view(z.shape[:2]), normed.view(z.shape[:2])
        if z.dim() == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in (z, outer)):
            images = zip(torch.split(outer, 1), torch.split(z, 1), strict=True)
            each = [_weight_gradients(d, x, center, inverse) for d, x in images]
            return torch.stack([s for s, _ in each]), torch.stack([s for _, s in each])
    space = tuple(range(2, z.dim()))
    total = outer.sum(space, dtype=center.dtype)
    return total, ((outer * z).sum(space, dtype=center.dtype) - center * total) * inverse


def _weight_gradients(
    outer: torch.Tensor, z: torch.Tensor, center: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums over all axes but the second, of a map whose first is 1."""
    training, eps, wanted = True, 0.0, [False, True, True]
    _, normed, total = torch.ops.aten.native_batch_norm_backward(
        outer, z, None, None, None, center, inverse, training, eps, wanted
    )
    return total, normed
