"""Attention that sees the same of every image, because of what stands before it.

An instance norm makes the mean and the variance of each channel of each image what its own weights say. Attention that
looks at nothing else right behind it gives every image the same weights: it is a scale per channel, which the norm has
already, and no attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..attention.base import Attention
from ..attention.registry import build
from ..sites.flow import Flow
from ..sites.operations import name_of
from ..sites.placement import Edit
from ..tracing.nodes import value_of
from ..types import Insertion

_IMAGES, _POSITIONS = 8, 8
# How often all of its weights are drawn: as they start, they may look at nothing, and a hidden ReLU may let nothing by.
_DRAWS = 4
_TOLERANCE = 1e-4


def blind_note(flow: Flow, attention: Attention, placed: Sequence[tuple[Insertion, Edit]]) -> list[str]:
    """That some of the insertions stand right behind an instance norm, if `attention` is blind there."""
    behind = [insertion for insertion, edit in placed if _ends_in_instance_norm(flow, edit)]
    if not behind or not _gives_all_images_the_same(attention, behind[0]):
        return []
    return [
        f"{len(behind)} of {len(placed)} are right behind an instance norm ({behind[0].module}, ...), which gives the "
        f"channels of every image the same means and variances: {attention.name} sees nothing else, and weighs every "
        "image alike there; placement 'pre' or 'post' does not, nor an attention that sees more (cbam, coord)"
    ]


def _ends_in_instance_norm(flow: Flow, edit: Edit) -> bool:
    operations = flow.operations
    step = edit.value
    while operations.is_gain(step) or operations.is_rearrangement(step):
        step = operations.sources(step)[0]
    if step.op == "call_module":
        module = operations.module(step)
        if isinstance(module, nn.GroupNorm):
            return module.num_groups == module.num_channels
        return isinstance(module, nn.modules.instancenorm._InstanceNorm)
    if name_of(step) == "group_norm":
        value = value_of(step)
        return len(step.args) > 1 and isinstance(value, torch.Tensor) and bool(step.args[1] == value.shape[1])
    return name_of(step) == "instance_norm"


def _gives_all_images_the_same(attention: Attention, insertion: Insertion) -> bool:
    """Whether it multiplies images that have only their channels' means and variances in common by one vector."""
    ndim = len(insertion.site.size)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        try:
            module = build(attention, insertion.channels, ndim=ndim, options=insertion.options).eval()
            x = torch.randn(_IMAGES, insertion.channels, *(_POSITIONS,) * ndim)
            axes = tuple(range(2, x.dim()))
            x = (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True)
            return all(_is_one_scale(_redrawn(module)(x), x) for _ in range(_DRAWS))
        except Exception:
            # It only says whether there is something to say: what fails here is tried, and told, elsewhere.
            return False


def _redrawn(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.normal_()
    return module


def _is_one_scale(y: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether `y` is `x` times one number per channel."""
    axes = (0, *range(2, x.dim()))
    weights = (x * y).sum(axes, keepdim=True) / (x * x).sum(axes, keepdim=True)
    return bool((y - weights * x).abs().max() <= _TOLERANCE * y.abs().max())
