"""Modules that only combine what they are given (`Add`), called by several blocks: what runs in one is its caller's.

A block shares its attention among its calls as it shares its weights. What holds no weights, and is called more than
once, shares nothing: each of its calls ends another block.
"""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from .frames import Calls
from .nodes import frame_of, has_frame, set_owner


def note_owners(root: nn.Module, graph: fx.Graph, calls: Calls) -> None:
    """Let the nodes that run in such modules know the call that they are of."""
    counts = Counter(path for path, _ in calls)
    helpers = {path for path, count in counts.items() if path and count > 1 and _holds_nothing(root, path)}
    for node in filter(has_frame, graph.nodes if helpers else ()):
        frame = frame_of(node)
        while frame[0] in helpers and (parent := calls[frame].parent) is not None:
            frame = parent
            set_owner(node, frame)


def _holds_nothing(root: nn.Module, path: str) -> bool:
    module = root.get_submodule(path)
    return not (module._parameters or module._buffers or module._modules)
