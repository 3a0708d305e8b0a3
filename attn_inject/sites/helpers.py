"""Modules that only combine what they are given (`Add`), called by several blocks: an add in one is its caller's.

A block is the module in whose `forward` the add runs, and shares its attention among its calls as it shares its
weights. What holds no weights, and is called more than once, shares nothing: each of its calls ends another block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from torch import nn

from ..tracing.frames import Calls
from .anatomy import Anatomy


def shared_helpers(root: nn.Module, calls: Calls) -> set[str]:
    """The paths of such modules."""
    counts = Counter(path for path, _ in calls)
    return {path for path, count in counts.items() if path and count > 1 and _holds_nothing(root.get_submodule(path))}


def _holds_nothing(module: nn.Module) -> bool:
    return not (module._parameters or module._buffers or module._modules)


def of_its_caller(site: Anatomy, helpers: Collection[str], calls: Calls) -> Anatomy:
    """The site as one of the block that called the helper in which its add runs."""
    frame = site.block, site.call
    while frame[0] in helpers and (parent := calls[frame].parent) is not None:
        frame = parent
    return site if frame == (site.block, site.call) else replace(site, frame=frame)
