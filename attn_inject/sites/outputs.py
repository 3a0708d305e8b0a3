"""Sums of what several blocks put out beside their ends (the skip outputs of WaveNet and Conv-TasNet).

R14. A sum of what several blocks put out beside their ends is no block's add.

Such a sum looks like a skip add, since each part is made from the one before. But no block begins at the one and ends
at the other: either the way between them starts in the middle of a block and leaves it by its end, or the blocks go on
from each other's ends, while their sum is only ever added to.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from .anatomy import Anatomy
from .flow import Flow


def sums_of_outputs(flow: Flow, sites: Mapping[fx.Node, Anatomy]) -> set[fx.Node]:
    """Those of the residual `sites`, which are in execution order, that are such sums."""
    sums: set[fx.Node] = set()
    for node, site in sites.items():
        if site.fork is not None and site.branch is not None:
            starts, passed = site.fork, [step for step in flow.region(site.branch, site.fork) if step in sites]
            if site.shortcut in sums or any(
                _starts_within(flow, starts, sites, end) or _goes_on_beside(flow, node, end)
                for end in passed
                if end not in sums and flow.descends(end, starts)
            ):
                sums.add(node)
    return sums


def _starts_within(flow: Flow, start: fx.Node, sites: Mapping[fx.Node, Anatomy], end: fx.Node) -> bool:
    """Whether `start` is what a block's branch has come to, past a convolution, that goes on to the block's end."""
    fork, branch = sites[end].fork, sites[end].branch
    if fork is None or branch is None or start is fork or start in sites:
        return False
    return start in flow.mainline(branch, fork) and flow.holds_convolution(start, fork)


def _goes_on_beside(flow: Flow, node: fx.Node, end: fx.Node) -> bool:
    """Whether what is added to the sum `node` next is made from the block's end, and not from the sum."""
    return any(
        flow.descends(other, end) and not flow.descends(other, node)
        for reader in node.users
        if flow.operations.carries[reader] and flow.operations.adds_maps(reader)
        for other in flow.operations.addends(reader)
        if isinstance(other, fx.Node) and other is not node
    )
