"""Modules with hooks, which no rewrite takes to pieces: a hook may change what a module gives, or keep it."""

from __future__ import annotations

from torch import nn

from ..tracing.hook_tables import BACKWARD, FORWARD, hook_tables


def is_hooked(module: nn.Module) -> bool:
    """Whether the module, or a part of it, has forward or backward hooks; masks and old weight norms are some."""
    return any(hook_tables(part, (*FORWARD, *BACKWARD)) for part in module.modules())
