"""What the tests of attentions on maps share: maps, weights that are no special values, norms written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

TIGHT = 1e-12
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class _Case:
    """Options that keep a hidden layer of more than one unit; those of a tiny one; steps until all parameters learn."""

    small: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 2


# The attentions on maps, and what a test of each needs.
MAPS: dict[str, _Case] = {
    "cbam": _Case({"reduction": 2}, {"kernel": 3}),
    "bam": _Case({"reduction": 2}, {"dilation": 1}),
    "scse": _Case(),
    "coord": _Case({}, {"min_width": 2}),
    "ela": _Case({}, {"kernel": 3}),
    "ema": _Case({"groups": 2}),
    "triplet": _Case({}, {"kernel": 3}),
    "sk": _Case({}, {"min_width": 2}),
    "simam": _Case(),
    "sa": _Case({"groups": 2}, steps=3),
    "lska": _Case({"kernel": 7}),
    "polarized": _Case(),
}
# Those that start at identity by themselves; the others are mixed in.
GATED = ("cbam", "scse", "coord", "ela", "triplet", "lska")


def map_of(n: int, c: int, size: list[int]) -> torch.Tensor:
    """(N, C, *size), the same for the same C."""
    return torch.randn(n, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(c))


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` with all parameters and statistics drawn anew, so that no one, zero or symmetry hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.3
                tensor.copy_(drawn.abs() + 0.5 if name.endswith(("running_var", "norm.weight")) else drawn)
    return module


def normalized(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """A batch norm in eval mode, written out."""
    shape = (1, -1, *(1,) * (x.dim() - 2))
    mean, var = norm.running_mean.reshape(shape), norm.running_var.reshape(shape)
    return (x - mean) / torch.sqrt(var + norm.eps) * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def sigma(z: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-z))


def spread(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(N, C) -> (N, C, 1, ...), for `x`."""
    return weights.reshape(*weights.shape, *(1,) * (x.dim() - 2))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
