"""Sums of what several blocks put out beside their ends (the skip outputs of WaveNet and Conv-TasNet).

R14. A sum of what several blocks put out beside their ends is no block's add.

Such a sum looks like a skip add, since each part is made from the one before. But no block begins at the one and ends
at the other. Either the sum is read by nothing but the next sum, to which a later block adds, and that block goes on
from an earlier one's end and not from the sum. Or there are two parts only, and the way between them starts in the
middle of a block and leaves it by its end.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from .anatomy import Anatomy
from .flow import Flow

Sites = Mapping[fx.Node, Anatomy]


def sums_of_outputs(flow: Flow, sites: Sites) -> set[fx.Node]:
    """Those of the residual `sites`, which are in execution order, that are such sums."""
    sums: set[fx.Node] = set()
    following: set[fx.Node | None] = set()
    for node, site in sites.items():
        if site.fork is None or site.branch is None:
            continue
        within = set(flow.region(site.branch, site.fork))
        passed = [end for end in within if end in sites and end not in sums]
        if (
            node in following
            or any(_starts_within(flow, site.fork, sites, end) for end in passed)
            or _is_added_to_only(flow, node, site.fork, sites, passed, within)
        ):
            sums.add(node)
            following.add(_next_sum(flow, node))
    return sums


def _next_sum(flow: Flow, node: fx.Node) -> fx.Node | None:
    """The add that alone reads the sum `node`, to add to it what is not made from it."""
    step = node
    while len(readers := [user for user in step.users if flow.operations.carries[user]]) == 1:
        before, step = step, readers[0]
        if flow.operations.adds_maps(step):
            others = [other for other in flow.operations.addends(step) if other is not before]
            made = any(isinstance(other, fx.Node) and flow.descends(other, node) for other in others)
            return step if others and not made else None
        if not flow.operations.is_gain(step):
            return None
    return None


def _is_added_to_only(
    flow: Flow, node: fx.Node, fork: fx.Node, sites: Sites, passed: list[fx.Node], within: set[fx.Node]
) -> bool:
    """Whether a block after those that the sum's branch has `passed` adds to it next, and goes on from one of them."""
    following = _next_sum(flow, node)
    if following is None:
        return False
    for other in flow.operations.addends(following):
        if isinstance(other, fx.Node) and not flow.descends(other, node):
            for end in (each for each in passed if flow.descends(each, fork)):
                later = (step for step in flow.region(other, end) if step in sites and step not in within)
                if any(flow.descends(step, end) for step in later):
                    return True
    return False


def _starts_within(flow: Flow, start: fx.Node, sites: Sites, end: fx.Node) -> bool:
    """Whether `start` is what a block's branch has come to, past a convolution, that goes on to the block's end."""
    fork, branch = sites[end].fork, sites[end].branch
    if fork is None or branch is None or start is fork or start in sites:
        return False
    return start in flow.mainline(branch, fork) and flow.holds_convolution(start, fork)
