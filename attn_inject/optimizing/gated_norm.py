"""A norm, the gate after it and the add after that, which keep the norm's input for the backward pass and no other map.

With z the norm's input, h = (z - mu) / sigma, v = gamma h + beta, y the pool of v, and w (N, C) the gate's weights,
which its own small layers make of y:

    out = v w + s

Ordinary autograd keeps v for the gradient of w, beside z for that of the norm. But v is an affine function of z, so
that sums over space are enough. With D the gradient of `out`, p that of y, a mean over HW positions, and

    A = sum D,    B = sum D h                                            over space, both (N, C),

    ds = D,    dw = gamma B + beta A,    dv = D w + p / HW,
    dbeta = sum (w A + p),    dgamma = sum (w B + p mean(h))             over the batch,
    dz = gamma / sigma (dv - dbeta / M - h dgamma / M),    M = N HW,

the last two terms only where mu and sigma are the batch's own. So dz takes one pass over D and z: the sums over dv
that the norm needs are made of A and B. Two functions share the work, since the gate's layers stand between them:
`NormAndPool` gives v and y, `GateAndAdd` gives `out`. What the second has to tell the first, w, A and B, goes back as
the gradient of a `letter` that holds nothing, and D itself as that of v, which nothing else may read.

A pool that is no mean runs again in the backward pass, on a v that is made of z again. Gradients of gradients are made
of torch's own operations, on such a v too; so are those of maps in half precision, whose sums torch takes in single.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..attention.gating import ChannelGate, for_each_position
from .map_sums import sums_over_space
from .rerun import gradients_through


class Affine(NamedTuple):
    """v as a function of z (N, C, *spatial): gamma, beta, mu and 1 / sigma (C); whether the last are the batch's."""

    z: torch.Tensor
    gamma: torch.Tensor | None
    beta: torch.Tensor | None
    center: torch.Tensor
    inverse: torch.Tensor
    of_batch: bool
    eps: float

    def of(self, normed: torch.Tensor) -> torch.Tensor:
        """gamma h + beta, for h or its mean (N, C)."""
        scaled = normed if self.gamma is None else normed * self.gamma
        return scaled if self.beta is None else scaled + self.beta

    def value(self) -> torch.Tensor:
        """v. It can be differentiated where gradients are on; the statistics are then worked out again too."""
        if self.of_batch and torch.is_grad_enabled():
            return torch.native_batch_norm(
                self.z, self.gamma, self.beta, None, None, training=True, momentum=0.0, eps=self.eps
            )[0]
        mean, var = self._statistics()
        return torch.native_batch_norm(self.z, self.gamma, self.beta, mean, var, training=False, momentum=0.0, eps=0.0)[
            0
        ]

    def gradients(self, dv: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Those of z, gamma and beta, by torch's own operation."""
        mean, var = self._statistics()
        wanted = [True, self.gamma is not None, self.beta is not None]
        made: tuple[torch.Tensor | None, ...] = torch.ops.aten.native_batch_norm_backward(
            dv.to(self.z.dtype), self.z, self.gamma, mean, var, mean, self.inverse.to(mean.dtype), self.of_batch, 0.0,
            wanted,
        )  # fmt: skip
        return tuple(gradient if asked else None for gradient, asked in zip(made, wanted, strict=True))

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """mu and sigma^2, in the type of gamma."""
        like = self.center if self.gamma is None else self.gamma
        return self.center.to(like.dtype), self.inverse.pow(-2).to(like.dtype)


class NormAndPool(torch.autograd.Function):
    """z, mean of z (or None), gamma, beta, running statistics, ... -> v, its pool, the letter (3, N, C), mu, 1 / sigma.

    The last arguments are a gate whose pool is no mean, and its parameters.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        early: torch.Tensor | None,
        gamma: torch.Tensor | None,
        beta: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        of_batch: bool,  # noqa: FBT001  # autograd functions take no keywords
        momentum: float,
        eps: float,
        *pool: Any,
    ) -> tuple[torch.Tensor, ...]:
        value, center, inverse = torch.native_batch_norm(
            z, gamma, beta, running_mean, running_var, of_batch, momentum, eps
        )
        if not of_batch:
            assert running_mean is not None
            assert running_var is not None
            center, inverse = running_mean.clone(), (running_var + eps).rsqrt()
        wide = torch.promote_types(center.dtype, torch.float32)
        affine = Affine(z, gamma, beta, center.to(wide), inverse.to(wide), of_batch, eps)
        mean = z.mean(tuple(range(2, z.dim())), dtype=wide) if early is None else early.to(wide)
        mean = (mean - affine.center) * affine.inverse
        pooled = pool[0].pool(value) if pool else affine.of(mean).to(value.dtype)
        ctx.save_for_backward(*affine[:5], mean, *pool[1:])
        ctx.of_batch, ctx.eps, ctx.gate = of_batch, eps, pool[0] if pool else None
        ctx.mark_non_differentiable(affine.center, affine.inverse)
        return value, pooled, affine.center.new_zeros(3, *mean.shape), affine.center, affine.inverse

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        outer, of_pool, letter = gradients[:3]
        saved = ctx.saved_tensors  # once: checkpointing makes them then
        z, gamma, beta, center, inverse, mean, *parameters = saved
        affine = Affine(z, gamma, beta, center, inverse, ctx.of_batch, ctx.eps)
        others: tuple[torch.Tensor | None, ...] = ()
        if ctx.gate is not None:
            share, of_parameters = gradients_through(ctx.gate, _pool, affine.value(), parameters, of_pool)
            others = (None, *of_parameters)
        else:
            share = for_each_position(of_pool / affine.z[0, 0].numel(), affine.z)
            if not torch.is_grad_enabled() and affine.z.dtype == affine.center.dtype:
                return _wanted(ctx, _in_one_pass(affine, outer, letter, of_pool, mean))
        dv = torch.addcmul(share.to(outer.dtype), outer, for_each_position(letter[0], outer))
        return _wanted(ctx, affine.gradients(dv), others)


def _wanted(
    ctx: Any, found: tuple[torch.Tensor | None, ...], others: tuple[torch.Tensor | None, ...] = ()
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of all arguments of `NormAndPool`, from those of z, gamma and beta and of the pool."""
    gradients = (found[0], None, found[1], found[2], *(None,) * 5, *others)
    return tuple(g if wanted else None for g, wanted in zip(gradients, ctx.needs_input_grad, strict=True))


def _in_one_pass(
    affine: Affine, outer: torch.Tensor, letter: torch.Tensor, of_pool: torch.Tensor, mean: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The gradients of z, gamma and beta by the equations above: dz = a D + k z + c."""
    z = affine.z
    weights, total, normed = letter.unbind(0)
    positions = z[0, 0].numel()
    of_beta = (weights * total + of_pool).sum(0)
    of_gamma = (weights * normed + of_pool * mean).sum(0)
    scale = affine.inverse if affine.gamma is None else affine.inverse * affine.gamma
    c = of_pool / positions
    if affine.of_batch:
        count = positions * z.shape[0]
        k = of_gamma * affine.inverse / -count
        c = c - of_beta / count - k * affine.center
    dz = torch.addcmul(for_each_position(scale * c, z), outer, for_each_position(scale * weights, z))
    return (dz.addcmul_(z, for_each_position((scale * k)[None], z)) if affine.of_batch else dz), of_gamma, of_beta


def _pool(gate: ChannelGate, value: torch.Tensor) -> torch.Tensor:
    return gate.pool(value)


class GateAndAdd(torch.autograd.Function):
    """v, the letter, w (N, C, 1, ...), s or None, and the parts of `Affine` -> v w + s, in v's memory if it fits."""

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        letter: torch.Tensor,
        weights: torch.Tensor,
        shortcut: torch.Tensor | None,
        *affine: Any,
    ) -> torch.Tensor:
        ctx.save_for_backward(weights, *affine[:5])
        ctx.of_batch, ctx.eps = affine[5:]
        ctx.types = value.dtype, letter.dtype, None if shortcut is None else shortcut.dtype
        if any(t is not None and t.dtype != value.dtype for t in (weights, shortcut)):
            return value * weights if shortcut is None else torch.addcmul(shortcut, value, weights)
        ctx.mark_dirty(value)
        return value.mul_(weights) if shortcut is None else torch.addcmul(shortcut, value, weights, out=value)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weights, *rest = ctx.saved_tensors
        z, gamma, beta, center, inverse = rest
        affine = Affine(z, gamma, beta, center, inverse, ctx.of_batch, ctx.eps)
        of_value, of_letter, of_shortcut = ctx.types
        flat = weights.flatten(1).to(of_letter)
        if torch.is_grad_enabled():
            of_weights = (outer * affine.value()).sum(tuple(range(2, outer.dim())))
            letter = torch.stack([flat, torch.zeros_like(flat), torch.zeros_like(flat)])
        else:
            total, normed = sums_over_space(outer, affine.z, affine.center, affine.inverse)
            of_weights = normed if affine.gamma is None else normed * affine.gamma
            of_weights = of_weights if affine.beta is None else torch.addcmul(of_weights, total, affine.beta)
            letter = torch.stack([flat, total, normed])
        shortcut = None if of_shortcut is None else outer.to(of_shortcut)
        found = outer.to(of_value), letter, of_weights.view_as(weights).to(weights.dtype), shortcut
        return *(g if wanted else None for g, wanted in zip(found, ctx.needs_input_grad, strict=False)), *(None,) * 7
