"""What tests of several attentions share: the forms there are, drawn maps, operations written as they are defined."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

TIGHT = 1e-12
# (N, sizes): one, two and three spatial axes; odd, single and unequal extents.
maps = st.tuples(st.integers(1, 3), st.lists(st.integers(1, 6), min_size=1, max_size=3))
channels = st.one_of(st.integers(1, 2048), st.sampled_from([1, 2, 3, 16, 24, 64, 256, 2048]))
few_channels = st.one_of(st.integers(1, 70), st.sampled_from([1, 2, 64, 128]))

# Every attention in each of its forms that runs other code.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "srm": ("srm", {}),
    "gct": ("gct", {}),
    "gct l1": ("gct", {"norm": "l1", "form": "text"}),
    "gaussian-gct": ("gaussian-gct", {}),
    "gaussian-gct b1": ("gaussian-gct", {"learn": True}),
    "lct": ("lct", {"groups": 8}),
    # Two hidden units may both start dead; eight do not.
    "fca": ("fca", {"reduction": 4}),
    "fca sized": ("fca", {"reduction": 4, "size": 7, "form": "text"}),
    "gc": ("gc", {}),
    "gc both": ("gc", {"fusion": "both", "pool": "mean"}),
    "ge": ("ge", {}),
    "ge local": ("ge", {"extent": 4}),
    "ge theta": ("ge", {"variant": "theta", "extent": 4}),
    "ge plus": ("ge", {"variant": "theta-plus", "extent": 2}),
    "ge sized": ("ge", {"variant": "theta-plus", "size": [9, 7]}),
    "double": ("double", {}),
    "nam": ("nam", {}),
    "nam text": ("nam", {"form": "text"}),
    "nam sized": ("nam", {"form": "text", "size": 3}),
    "sge": ("sge", {"groups": 8}),
    "gam": ("gam", {"kernel": 3}),
    "gam grouped": ("gam", {"kernel": 3, "groups": 4, "form": "text"}),
    "mlca": ("mlca", {}),
    "mlca text": ("mlca", {"form": "text"}),
}
ONE_SIZE = ("ge sized",)


def drawn(n: int, c: int, size: list[int], seed: int = 0) -> torch.Tensor:
    return torch.randn(n, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + c))


def shaken(module: nn.Module) -> nn.Module:
    """In float64, with parameters and statistics that are nobody's starting values."""
    generator = torch.Generator().manual_seed(1)
    module = module.double()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                # Weights as a layer's, so that sums over many inputs stay near one.
                inputs = tensor[0].numel() if tensor.dim() > 1 else 1
                tensor.copy_(values.abs() + 0.5 if "var" in name else values / inputs**0.5)
    return module.eval()


def rows(x: torch.Tensor) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C, S)."""
    return x.reshape(*x.shape[:2], -1)


def mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C): over the spatial axes, as a sum over positions."""
    return rows(x).sum(2) / math.prod(x.shape[2:])


def sigma(z: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-z))


def scaled(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """x times a weight per image and channel."""
    return x * weights.reshape(*weights.shape, *(1,) * (x.dim() - 2))


def normed(norm: nn.Module, x: torch.Tensor, *, batch: bool = False) -> torch.Tensor:
    """Batch norm by its definition, with the running statistics or the batch's own."""
    by_channel = x.transpose(0, 1).reshape(x.shape[1], -1)
    mu = by_channel.mean(1) if batch else norm.running_mean
    variance = ((by_channel - mu[:, None]) ** 2).mean(1) if batch else norm.running_var
    out = (by_channel - mu[:, None]) / torch.sqrt(variance + norm.eps)[:, None]
    out = out * norm.weight[:, None] + norm.bias[:, None]
    return out.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def parameters_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    """The largest difference, relative to the largest value, or absolute where that is below one."""
    return float((a - b).detach().abs().max()) / max(1.0, float(b.detach().abs().max()))
