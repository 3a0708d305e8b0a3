"""What a rewritten train graph calls: the gate in two steps, its weights and their use.

Each takes what it needs of its modules when it runs, so that a model whose norms were converted after the rewrite (to
synchronised or frozen ones) does what those do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..attention.gating import ChannelGate, for_each_position, spatial_mean
from .gated_norm import Affine, GateAndAdd, NormAndPool
from .map_sums import sums_over_space
from .rerun import GateAgain

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Normed(NamedTuple):
    """A norm's output (N, C, *spatial), its pool, and how it is made if it is not kept, with the letter for that."""

    value: torch.Tensor
    pooled: torch.Tensor
    letter: torch.Tensor | None = None
    affine: Affine | None = None


def pool_of(gate: ChannelGate, x: torch.Tensor) -> torch.Tensor:
    """The gate's pool of x, (N, C, *spatial) -> (N, C)."""
    return gate.pool(x)


def pooled_convolution(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """The pooled output of a 1x1 convolution from its input: (N, C_in, *spatial) -> (N, C_out)."""
    pooled = spatial_mean(x)
    if conv.groups == 1:
        return F.linear(pooled, conv.weight.flatten(1), conv.bias)
    return F.conv1d(pooled.unsqueeze(2), conv.weight.flatten(1).unsqueeze(2), conv.bias, groups=conv.groups).squeeze(2)


def norm_and_pool(
    norm: nn.Module, z: torch.Tensor, gate: ChannelGate, conv: Any = None, x: torch.Tensor | None = None
) -> Normed:
    """norm(z) and its pool; the mean of z is that of conv(x), if they are given. z: (N, C, *spatial)."""
    if not isinstance(norm, BATCH_NORMS) or torch.compiler.is_compiling() or not z.numel():
        # A compiler chooses itself what is kept, and works out again what is cheap. Of no image nothing is kept.
        value = norm(z)
        return Normed(value, gate.pool(value))
    tracked = norm.track_running_stats or not norm.training
    statistics = (norm.running_mean, norm.running_var) if tracked else (None, None)
    of_batch = norm.training or norm.running_mean is None
    if of_batch:
        F._verify_batch_size(list(z.shape))  # type: ignore[attr-defined]  # as the norm itself does
    momentum = _momentum(norm)
    with torch.no_grad():
        early = None if x is None else pooled_convolution(conv, x)
    pool = () if gate.pools_mean else (gate, *gate.parameters())
    value, pooled, letter, center, inverse = NormAndPool.apply(
        z, early, norm.weight, norm.bias, *statistics, of_batch, momentum, norm.eps, *pool
    )
    return Normed(value, pooled, letter, Affine(z, norm.weight, norm.bias, center, inverse, of_batch, norm.eps))


def _momentum(norm: nn.modules.batchnorm._BatchNorm) -> float:
    """The weight of this batch in the running statistics; counts the batch."""
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            return 1.0 / float(norm.num_batches_tracked)
    return 0.0 if norm.momentum is None else norm.momentum


def weights_of(gate: ChannelGate, pooled: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gate's weights, (N, C) -> (N, C, 1, ...), in the type of the map x.

    Autocast keeps a copy of each layer's weights for the backward pass; vectors are cheap to work out again instead.
    """
    if _is_cast(x) and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        again: torch.Tensor = GateAgain.apply(gate, pooled, *gate.parameters())
        return for_each_position(again, x)
    return for_each_position(gate.gate(pooled), x)


def _is_cast(x: torch.Tensor) -> bool:
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def gate_and_add(given: Normed, weights: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
    """value * weights + shortcut. Shapes: the value's, (N, C, 1, ...), the value's -> the value's."""
    value, _, letter, affine = given
    if affine is not None:
        out: torch.Tensor = GateAndAdd.apply(value, letter, weights, shortcut, *affine)
        return out
    return scale_and_add(value, weights, shortcut)


def scale_and_add(value: torch.Tensor, weights: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
    """The same for a value that is kept."""
    if torch.compiler.is_compiling() or not value.numel():
        return value * weights if shortcut is None else torch.addcmul(shortcut, value, weights)
    out: torch.Tensor = _ScaleAndAdd.apply(value, weights, shortcut)
    return out


class _ScaleAndAdd(torch.autograd.Function):
    """`addcmul` that keeps the value in its own type: torch's keeps a copy in that of the sum, as autocast has it."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, weights: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(value, weights)
        ctx.type = None if shortcut is None else shortcut.dtype
        return value * weights if shortcut is None else torch.addcmul(shortcut, value, weights)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        value, weights = ctx.saved_tensors
        of_value, of_weights, of_shortcut = ctx.needs_input_grad
        made = None
        if of_weights and torch.is_grad_enabled():
            made = (outer * value).sum(tuple(range(2, value.dim())))
        elif of_weights:
            wide = torch.promote_types(value.dtype, torch.float32)
            zero = torch.zeros(value.shape[1], dtype=wide, device=value.device)
            made = sums_over_space(outer, value, zero, zero + 1)[1]
        return (
            (outer * weights).to(value.dtype) if of_value else None,
            None if made is None else made.view_as(weights).to(weights.dtype),
            outer.to(ctx.type) if of_shortcut else None,
        )
