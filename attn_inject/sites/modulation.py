"""Maps that are scaled and shifted by what a condition gives (SPADE, spatial feature transform).

R16. In `u * (1 + scale(c)) + shift(c)` the add ends no block: what the two operands share is the condition, and what is
scaled comes from elsewhere. Where a decoder has made `u` from `c` too, in blocks before, `u` is handed to the code that
scales it, or `c` is resized for each of them. In `project(x) + body(x) * gate(x)` the same code makes all three from x.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from ..tracing.nodes import frame_of
from .brothers import way_to
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
        for condition in _conditions(flow, scale, shortcut, fork):
            convolved = all(_is_convolved(flow, each, condition) for each in (scale, shortcut))
            if convolved and _is_of_another(flow, product, scaled, (scale, shortcut), condition):
                return True
    return False


def _conditions(flow: Flow, scale: fx.Node, shift: fx.Node, fork: fx.Node) -> Iterator[fx.Node]:
    """The values that both are made from, the nearest first, up to `fork`; none before one that bends."""
    nearest = flow.fork(scale, shift)
    for step in flow.mainline(nearest, fork) if nearest else ():
        yield step
        if flow.operations.is_nonlinear(step):
            return
    yield fork


def _is_of_another(
    flow: Flow, product: fx.Node, scaled: fx.Node, given: tuple[fx.Node, fx.Node], condition: fx.Node
) -> bool:
    """Whether `scaled` is not made from `condition`, or not by the code that multiplies and makes `given` from it."""
    if not flow.descends(scaled, condition):
        return True
    ways = [way_to(flow, value, frame_of(product)) for value in (scaled, *given)]
    return [condition in way.nodes | way.inputs for way in ways] == [False, True, True]


def _is_convolved(flow: Flow, node: fx.Node, fork: fx.Node) -> bool:
    """Whether there is a way from `fork` to `node`, which convolves, and bends nowhere."""
    if not flow.descends(node, fork):
        return False
    way = [step for step in flow.region(node, fork) if step is not fork]
    convolves = any(flow.operations.holds_convolution(step) for step in way)
    return convolves and not any(flow.operations.is_nonlinear(step) for step in way)
