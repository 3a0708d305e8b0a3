"""The versions that a record names: of this package and of the libraries whose code a patched model runs."""

from __future__ import annotations

from importlib import metadata


def versions() -> dict[str, str]:
    """Installed versions of attn-inject, torch, torchvision and timm, by name; those not installed are left out."""
    found: dict[str, str] = {}
    for name in ("attn-inject", "torch", "torchvision", "timm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
