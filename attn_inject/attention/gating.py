"""What all pure channel gates share: pool the map, turn the pooled vector into weights, multiply.

    y = mean of x over its spatial axes              (N, C)
    w = g sigma(z(y)), with g = 1, or g = 2 with init="identity" and z starting at 0, so that w starts at exactly 1
    out = x * w

What asks for the rank of a map is a function that `torch.fx` keeps whole, so that any tracer can follow a gate.

`gate` is public so that a caller who has the pooled vector already can use it: `forward(x) == x * gate(pool(x))`; and
z comes in two steps, an affine `squeeze` and an `excite`, so that whatever affine stands before can be merged with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import AttentionError, must_be_number, must_be_whole

# Both are exactly one half at zero, which the identity start needs.
GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "tanh": torch.tanh,
}


def choice(table: dict[str, Any], label: str, name: object) -> Any:
    """The entry of `table` called `name`.

    Raises:
        AttentionError: there is none; lists them.

    """
    if not isinstance(name, str) or name not in table:
        raise AttentionError(f"{label} must be one of {', '.join(table)}; got {name!r}")
    return table[name]


def whole_number(label: str, value: object, least: int = 1) -> int:
    """`value` as an int of at least `least`.

    Raises:
        AttentionError: it is not.

    """
    return must_be_whole(label, value, least, AttentionError)


def above_zero(label: str, value: object) -> float:
    """`value` as a finite number above 0.

    Raises:
        AttentionError: it is not.

    """
    return must_be_number(label, value, error=AttentionError)


def _gain(gain: float | None, init: str) -> float:
    """g, the factor of the gate.

    Raises:
        AttentionError: it is no positive number, or not the 2 that an identity start needs.

    """
    if gain is None:
        return 2.0 if init == "identity" else 1.0
    factor = above_zero("gain", gain)
    if init == "identity" and factor != 2:
        raise AttentionError(f"init='identity' needs gain 2 (twice the gate's half), got {gain!r}")
    return factor


@fx.wrap
def spatial_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C): the mean over the spatial axes; a vector is its own mean."""
    # torch takes no axes for all axes.
    return x.mean([axis for axis in range(2, x.dim())]) if x.dim() > 2 else x  # noqa: C416  # for torch.jit


@fx.wrap
def for_each_position(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(N, C) or (N, S, C) -> the same with an axis of extent 1 for each spatial one of `x`, in its type."""
    ones = [1 for _ in range(x.dim() - weights.dim())]
    return weights.reshape(list(weights.shape) + ones).to(x.dtype)  # for torch.jit


class ChannelGate(nn.Module):
    """Base of the gates: subclasses give `squeeze`, (N, C) -> (N, H), and `excite`, (N, H) -> (N, C), if H is not C.

    A gate whose `pool` is another statistic than the mean over space says `pools_mean = False`. What is linear in the
    map commutes with 1x1 convolutions and norms, so that rewrites may take it earlier: the mean, and whatever a gate
    that says `pools_linearly = True` gives by `linear_pools` and `pool_of_channel`.
    """

    traced_whole = True
    pools_mean = True
    # torch.jit would compile it with every gate.
    __jit_unused_properties__ = ("pools_linearly",)

    def __init__(self, *, gate: str = "sigmoid", init: str = "paper", gain: float | None = None) -> None:
        super().__init__()
        self.gate_name = gate
        self._activation = choice(GATES, "gate", gate)
        self.scale = _gain(gain, init)

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, H): the affine first step of the gate."""
        raise NotImplementedError  # abstract: every gate defines its own map

    def excite(self, squeezed: torch.Tensor) -> torch.Tensor:
        """(N, H) -> (N, C): what follows; nothing for gates that are affine as a whole."""
        return squeezed

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): z(y)."""
        return self.excite(self.squeeze(pooled))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C): the mean over the spatial axes; a vector is its own mean."""
        return spatial_mean(x)

    @property
    def pools_linearly(self) -> bool:
        """Whether `linear_pools` gives what `pool` gives of each channel."""
        return self.pools_mean

    def linear_pools(self, x: torch.Tensor) -> torch.Tensor:
        """(N, K, *spatial) -> (N, K, F): of each channel of x, the F linear pools that this gate's channels take.

        x may be any map on the gate's positions, of any number of channels.
        """
        return spatial_mean(x).unsqueeze(2)

    def pool_of_channel(self) -> torch.Tensor | None:
        """(C,): which of the F pools each channel of the gated map takes; None where there is one for all."""
        return None

    def gate(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): the weights of the channels."""
        return self.open(self.logits(pooled))

    def open(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, C): sigma, scaled."""
        weights: torch.Tensor = self._activation(logits)
        return weights if self.scale == 1.0 else weights * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        return x * for_each_position(self.gate(self.pool(x)), x)


class BranchWeights(nn.Module):
    """What attentions that choose among branches share: weights of each channel that sum to 1 over the branches.

    A module of its own, without parameters, so that a caller can see the weights pass, or give others in their place.

    Args:
        branches: M. channels: C of each branch.

    """

    def __init__(self, branches: int, channels: int) -> None:
        super().__init__()
        self.branches, self.channels = branches, channels

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, M, C) -> the same shape."""
        return F.softmax(logits, dim=1)

    def extra_repr(self) -> str:
        return f"branches={self.branches}, channels={self.channels}"


class ZeroMix(nn.Module):
    """`x + mix * (f(x) - x)` with a scalar `mix` that starts at zero: exactly x at first, f(x) at mix = 1.

    For attentions that rewrite features and have no gate that could start at one. `f`'s own parameters get a gradient
    from the second step on, when `mix` has moved. It never would where f(x) is x at first: then `mix` starts at one.
    """

    traced_whole = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        mixed: torch.Tensor = x + self.mix.to(x.dtype) * (self.inner(x) - x)
        return mixed

    def start_whole(self) -> None:
        """Start at f(x), for an `f` that is the identity at first."""
        nn.init.ones_(self.mix)


def is_identity(module: nn.Module, channels: int, ndim: int) -> bool:
    """Whether a new module gives back what it is given, to the bit, told by a small map of `ndim` spatial axes.

    Not told of a module on the meta device, nor of one that does not run on such a map: it is taken for none.
    """
    held = next((tensor for tensor in (*module.parameters(), *module.buffers())), torch.empty(0, device="cpu"))
    if held.is_meta:
        return False
    x = torch.rand(2, channels, *(4,) * ndim, generator=torch.Generator("cpu").manual_seed(0), device="cpu") - 0.5
    x = x.to(held.device, held.dtype if held.is_floating_point() else None)
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            out = module.eval()(x.clone())
    except Exception:  # whatever somebody else's code minds about such a map
        return False
    finally:
        for part, mode in modes.items():
            part.training = mode
    return isinstance(out, torch.Tensor) and torch.equal(out, x)


def unmixed(module: nn.Module) -> nn.Module:
    """The attention itself, without what an identity start may have put around it."""
    return module.inner if isinstance(module, ZeroMix) else module


def largest_divisor(wanted: int, *numbers: int) -> int:
    """The largest group count up to `wanted` that divides all `numbers`."""
    common = math.gcd(*numbers)
    return next(g for g in range(min(wanted, common), 0, -1) if common % g == 0)
