"""Maps that are scaled and shifted by what a condition gives (SPADE, spatial feature transform).

R16. In `u * (1 + scale(c)) + shift(c)` the add ends no block: what the two operands share is the condition, and what is
scaled comes from elsewhere.
"""

from __future__ import annotations

from torch import fx

from .flow import Flow


def is_modulation(flow: Flow, fork: fx.Node, shortcut: fx.Node, branch: fx.Node) -> bool:
    """Whether `branch` is what a condition scales, and `shortcut` what the same condition shifts it by, or itself."""
    product = branch
    while flow.operations.is_rearrangement(product) or flow.operations.is_gain(product):
        product = flow.operations.sources(product)[0]
    if flow.operations.adds_maps(product):
        # u + u * scale(c)
        one, other = flow.operations.addends(product)
        pairs = ((one, other), (other, one))
        product = next((b for a, b in pairs if isinstance(b, fx.Node) and a in b.all_input_nodes), product)
    factors = flow.operations.sources(product)
    if not flow.operations.is_multiplication(product) or len(factors) != 2:
        return False
    for scaled, scale in (factors, factors[::-1]):
        if scaled is shortcut:
            return not flow.descends(scale, scaled)
        if not flow.descends(scaled, fork) and all(_is_convolved(flow, each, fork) for each in (scale, shortcut)):
            return True
    return False


def _is_convolved(flow: Flow, node: fx.Node, fork: fx.Node) -> bool:
    """Whether there is a way from `fork` to `node`, which convolves, and bends nowhere."""
    if not flow.descends(node, fork):
        return False
    way = [step for step in flow.region(node, fork) if step is not fork]
    convolves = any(flow.operations.holds_convolution(step) for step in way)
    return convolves and not any(flow.operations.is_nonlinear(step) for step in way)
