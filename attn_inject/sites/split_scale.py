"""Adds of two slices of one split.

R5. Two different slices of one split are a split-scale add, inside a branch (Res2Net), unless their block hands over
    the sum itself, joined to the other slices (a reversible block).
"""

from __future__ import annotations

from torch import fx

from ..tracing.nodes import frame_of
from .flow import Flow


def is_split_scale(flow: Flow, node: fx.Node, fork: fx.Node, shortcut: fx.Node, branch: fx.Node) -> bool:
    """Whether the add `node` is one."""
    if shortcut is fork:
        return False
    first = list(flow.mainline(shortcut, fork))[-1]
    if not flow.operations.is_slice(first):
        return False
    entries = flow.entries(branch, fork)
    slices = first not in entries and all(flow.operations.is_slice(entry) for entry in entries)
    return slices and not _is_joined(flow, node)


def _is_joined(flow: Flow, node: fx.Node) -> bool:
    """Whether the sum as it is, or scaled, is a part of what its own block joins: a half of a reversible block."""
    steps = [node]
    for step in steps:
        readers = [user for user in step.users if frame_of(user) == frame_of(node)]
        if any(flow.operations.is_concatenation(user) for user in readers):
            return True
        steps += [user for user in readers if flow.operations.is_gain(user)]
    return False
