"""Where a patched model comes from, as its record keeps it: the structure it was made for, and the versions at work."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata

import torch
from torch import nn

from ..tracing.injected import InjectedModule


def fingerprint(model: nn.Module) -> str:
    """A digest of the model's structure: names, shapes and order of its parameters and buffers, not values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}:{tuple(tensor.shape)};".encode())
    return digest.hexdigest()


def original_fingerprint(model: nn.Module) -> str:
    """That of the model before any injection: what was patched before, in whole or in part, knows it."""
    parts = (module for module in model.modules() if isinstance(module, InjectedModule))
    return next((part.injection.fingerprint for part in parts), None) or fingerprint(model)


def versions() -> dict[str, str]:
    """Installed versions of attn-inject, torch, torchvision and timm, by name; those not installed are left out."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    # Reading them takes as long as tracing a small network.
    found: dict[str, str] = {}
    for name in ("attn-inject", "torch", "torchvision", "timm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
