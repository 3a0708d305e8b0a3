"""Mixed sites: the concat that ends an Inception, GoogLeNet or Fire block, gated after the concat.

M1. It joins at least two feature maps along the channel axis.
M2. Its parts come from one fork, and none of them is the fork.
M3. They are parallel: none derives from another (feature reuse: DenseNet, VoVNet, HGNet, SelecSLS, Ghost).
M4. At least one part holds a convolution.
M5. They are not different slices of one split (MixNet, ShuffleNet).
M6. No part holds a block end of its own (a cross-stage concat: CSP), and the concat does not read from inside a
    residual branch (DPN's dense path) nor stand in one (Inception-ResNet), nor in a part of an outer mixed concat
    (InceptionE).
M7. It is not inside a cell whose sums were refused as cell combinations (NASNet): rule R7 of `residual`.
"""

from __future__ import annotations

from torch import fx

from ..tracing.nodes import value_of
from .anatomy import Anatomy, Refusal
from .flow import Flow
from .operations import axis_of, is_map, parts_of


def find_mixed(
    flow: Flow, axes: dict[fx.Node, int | None], residual: list[Anatomy], cells: set[str]
) -> tuple[list[Anatomy], list[Refusal]]:
    """Every mixed site of the graph, and every other concat of feature maps with its reason.

    `cells` are the paths of blocks in which sums were refused as cell combinations.
    """
    joins = {site.join for site in residual}
    inside = _inside_branches(flow, residual)
    sites: list[Anatomy] = []
    refusals: list[Refusal] = []
    # From the last to the first, so that an outer concat is judged before those in its parts.
    for node in reversed(flow.order):
        if not (flow.operations.carries[node] and flow.operations.is_concatenation(node)):
            continue
        outcome = _judge(flow, axes, node, joins, inside)
        if not isinstance(outcome, str) and any(_is_within(outcome.block, cell) for cell in cells):
            outcome = "inside a cell whose sums are combined by concat: M7"
        if isinstance(outcome, str):
            refusals.append(Refusal(node, "concat", outcome))
        else:
            sites.append(outcome)
            inside.update(n for n in flow.region(node, outcome.fork) if n is not node)
    return sites[::-1], refusals[::-1]


def _is_within(block: str, cell: str) -> bool:
    return block == cell or block.startswith(f"{cell}.")


def _inside_branches(flow: Flow, residual: list[Anatomy]) -> set[fx.Node]:
    inside: set[fx.Node] = set()
    for site in residual:
        if site.branch is not None:
            inside.update(flow.region(site.branch, site.fork))
    return inside


def _judge(
    flow: Flow, axes: dict[fx.Node, int | None], node: fx.Node, joins: set[fx.Node], inside: set[fx.Node]
) -> Anatomy | str:
    operations = flow.operations
    parts = parts_of(node)
    if len(parts) < 2 or not all(operations.carries[part] for part in parts):
        return "joins a parameter or a constant: M1"
    if not is_map(value_of(node)) or not all(is_map(value_of(part)) for part in parts):
        return "joins no feature maps: M1"
    axis = axes.get(node)
    if axis is None or axis_of(node) != axis:
        return "does not join along the channel axis: M1"
    if value_of(node).dim() == 3 and any(
        value_of(n).dim() > 3 for n in flow.mainline(node, None) if is_map(value_of(n))
    ):
        return "joins token sequences: M1"
    if node in inside:
        return "stands inside another block's branch: M6"
    fork = flow.fork(*parts)
    if fork is None:
        return "the parts come from different inputs: M2"
    if len(set(parts)) < len(parts) or fork in parts or _derived(flow, node):
        return "one part derives from another (feature reuse): M3"
    if not any(flow.holds_convolution(part, fork) for part in parts):
        return "no part holds a convolution: M4"
    entries = flow.entries(node, fork)
    if all(operations.is_slice(entry) for entry in entries):
        return "the parts are different slices of one split: M5"
    region = set(flow.region(node, fork)) - {node}
    if region & joins:
        return "a part holds a block end of its own (cross-stage concat): M6"
    if region & inside:
        return "reads from inside a residual branch (dense path): M6"
    return Anatomy("mixed", node, node, axis, fork)


def _derived(flow: Flow, node: fx.Node) -> bool:
    """Whether some part of the concat `node` is on the way to another."""
    parts = set(parts_of(node))
    earliest = min(parts, key=flow.order.__getitem__)
    # One walk back from all parts together; what comes before the earliest part leads to no other.
    behind = (step for step in flow.region(node, earliest) if step is not node)
    return any(source in parts for step in behind for source in flow.operations.sources(step))
