"""Which image of a batch each of several maps was made of, where a model makes more than one of an image.

Crops and frames are made beside one another (a, a, b, b: `x.flatten(0, 1)`) or batch by batch (a, b, a, b:
`torch.cat([x, x.flip(3)])`), which the number of maps does not tell. A batch whose first image is not a number does:
what is made of that image is not a number either.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError
from .feeds import Batch
from .quiet import run


def marked_maps(model: nn.Module, batch: Batch, modules: Collection[nn.Module]) -> dict[nn.Module, list[torch.Tensor]]:
    """For each call of the modules, which of the maps (N,) that it gives hold NaN when the first image is NaN.

    Nothing for modules that were not reached, since the model does not run on that.
    """
    found: dict[nn.Module, list[torch.Tensor]] = {module: [] for module in modules}

    def note(module: nn.Module, _args: Any, out: torch.Tensor) -> None:
        found[module].append(out.isnan().flatten(1).any(1).cpu())

    def marked(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or not tensor.dim() or len(tensor) != batch.size:
            return tensor
        tensor = tensor.clone()
        tensor[0] = torch.nan
        return tensor

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(note).remove)
        # Whatever the model does not like about it, maps that were made until then tell.
        with suppress(AttnInjectError, AssertionError):
            run(model, Batch(batch.inputs.map_tensors(marked)))
    return found


def images_of(maps: int, images: int, *, beside: bool) -> torch.Tensor:
    """The number of the image that each of the maps was made of: (maps,).

    >>> from attn_inject.studying.views import images_of
    >>> images_of(4, 2, beside=True), images_of(4, 2, beside=False)
    (tensor([0, 0, 1, 1]), tensor([0, 1, 0, 1]))
    """
    numbers, views = torch.arange(images, device="cpu"), maps // images
    return numbers.repeat_interleave(views) if beside else numbers.repeat(views)


def are_beside(marked: torch.Tensor, images: int) -> bool | None:
    """Whether maps of one image are beside one another, by which are `marked` as made of the first; None if unknown.

    >>> import torch
    >>> from attn_inject.studying.views import are_beside
    >>> are_beside(torch.tensor([True, True, False, False]), 2), are_beside(torch.tensor([True, False, True, False]), 2)
    (True, False)
    """
    ways = (True, False)
    return next((way for way in ways if marked.equal(images_of(len(marked), images, beside=way) == 0)), None)
