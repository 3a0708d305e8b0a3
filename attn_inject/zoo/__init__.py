"""Sources: text such as `resnet50`, `timm:resnet50d` or `net.py:make` becomes an `nn.Module`.

    text --parsing--> Source --building--> nn.Module
             `--names: what both zoos hold, from a cache      `--sizes: the input it was made for

Parsing imports neither torch nor a zoo when the cache is warm, so that a mistyped name is told at once; building
imports only the zoo that is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .building import build
    from .names import ModelName, models
    from .parsing import parse_source
    from .sizes import input_size

__all__ = ["ModelName", "build", "input_size", "models", "parse_source"]

_HOME = {
    "ModelName": "names",
    "build": "building",
    "input_size": "sizes",
    "models": "names",
    "parse_source": "parsing",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for on first use: parsing and names need no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
