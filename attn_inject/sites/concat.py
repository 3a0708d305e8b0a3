"""Mixed sites: the concat that ends an Inception, GoogLeNet or Fire block, gated after the concat.

M1. It joins at least two feature maps along the channel axis.
M2. Its parts come from one fork, and none of them is the fork.
M3. They are parallel: none derives from another (feature reuse: DenseNet, VoVNet, HGNet, SelecSLS, Ghost), and they
    exchange nothing on their way (the two streams of RiR).
M4. At least one part holds a convolution.
M5. They are not different slices of one split (MixNet, ShuffleNetV2, whose first slice is handed through).
M6. No part holds a block end of its own (a cross-stage concat: CSP), and the concat does not read from inside a
    residual block (DPN's dense path) nor stand in one (Inception-ResNet), nor in a part of an outer concat of this kind
    (InceptionE) or of slices; nor in a block without a skip add that runs the code of blocks with one and convolves the
    concat further (CGNet's down blocks).
M7. It is not inside a cell whose sums were refused as cell combinations (NASNet): rule R7 of `residual`.
M10. No part comes back from a coarser map than the fork's: U-Net's and hourglass's skips, and the pooled context of an
    ASPP, which is a pyramid at the end of a network and no block of it.

M8, M9 and M11 ask whether it is what a block hands over: `handed_over`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from torch import fx

from ..tracing.nodes import block_of, value_of
from .anatomy import Anatomy, Refusal
from .brothers import enclosing, forward_of, runs_in
from .flow import Flow
from .handed_over import doubted
from .operations import axis_of, is_map, parts_of
from .reasons import CROSS_STAGE, FEATURE_REUSE, SLICES
from .resolution import comes_back


def find_mixed(
    flow: Flow, axes: dict[fx.Node, int | None], residual: list[Anatomy], cells: set[str]
) -> tuple[list[Anatomy], list[Refusal]]:
    """Every mixed site of the graph, and every other concat of feature maps with its reason.

    `cells` are the paths of blocks in which sums were refused as cell combinations.
    """
    blocks = _Blocks.of(flow, residual)
    taken: dict[fx.Node, Anatomy] = {}
    refused: dict[fx.Node, str] = {}
    # From the last to the first, so that an outer concat is judged before those in its parts.
    for node in reversed(flow.order):
        if not (flow.operations.carries[node] and flow.operations.is_concatenation(node)):
            continue
        outcome = _judge(flow, axes, node, blocks)
        if not isinstance(outcome, str) and any(_is_within(outcome.block, cell) for cell in cells):
            outcome = "inside a cell whose sums are combined by concat: M7"
        if isinstance(outcome, str):
            refused[node] = outcome
        else:
            taken[node] = outcome
        if not isinstance(outcome, str) or outcome == SLICES:
            fork = flow.fork(*parts_of(node))
            blocks.inside.update(n for n in flow.region(node, fork) if n is not node)
    refused |= doubted(flow, taken, refused)
    order = flow.order.__getitem__
    return (
        [taken[node] for node in sorted(taken, key=order) if node not in refused],
        [Refusal(node, "concat", refused[node]) for node in sorted(refused, key=order)],
    )


@dataclass(frozen=True)
class _Blocks:
    """What is known of other blocks: their ends, what lies inside them, and the code that has a skip add."""

    joins: frozenset[fx.Node]
    inside: set[fx.Node]
    paths: frozenset[str]
    forwards: frozenset[object]

    @classmethod
    def of(cls, flow: Flow, residual: list[Anatomy]) -> _Blocks:
        inside: set[fx.Node] = set()
        for site in residual:
            for way in (site.branch, site.shortcut):
                if way is not None and way is not site.fork:
                    inside.update(flow.region(way, site.fork))
        paths = frozenset(site.block for site in residual if site.block)
        forwards = frozenset(forward_of(flow, path) for path in paths)
        return cls(frozenset(site.join for site in residual), inside, paths, forwards)


def _is_within(block: str, cell: str) -> bool:
    return block == cell or block.startswith(f"{cell}.")


def _judge(flow: Flow, axes: dict[fx.Node, int | None], node: fx.Node, blocks: _Blocks) -> Anatomy | str:
    reason = _joins_no_maps(flow, axes, node)
    if reason:
        return reason
    if node in blocks.inside:
        return "stands inside another block's branch: M6"
    if _goes_on_in_a_block(flow, node, blocks):
        return "stands inside a block whose code has a skip add elsewhere: M6"
    parts = parts_of(node)
    fork = flow.fork(*parts)
    if fork is None:
        return "the parts come from different inputs: M2"
    reason = _are_not_parallel(flow, node, parts, fork)
    if reason:
        return reason
    region = set(flow.region(node, fork)) - {node}
    if region & blocks.joins:
        return CROSS_STAGE
    if region & blocks.inside:
        return "reads from inside a residual branch (dense path): M6"
    if comes_back(flow, node, fork):
        return "a part comes back from a coarser map (U-Net, hourglass, pooled context): M10"
    if any(_exchange(flow, a, b) for a, b in combinations(parts, 2)):
        return "the parts exchange values on their way (streams): M3"
    return Anatomy("mixed", node, node, axes[node] or 1, fork)


def _joins_no_maps(flow: Flow, axes: dict[fx.Node, int | None], node: fx.Node) -> str:
    """M1."""
    operations = flow.operations
    parts = parts_of(node)
    if not all(operations.carries[part] for part in parts):
        return "joins a parameter or a constant: M1"
    if len(parts) < 2:
        return "joins no two values: M1"
    if not is_map(value_of(node)) or not all(is_map(value_of(part)) for part in parts):
        return "joins no feature maps: M1"
    axis = axes.get(node)
    if axis is None or axis_of(node) != axis:
        return "does not join along the channel axis: M1"
    if value_of(node).dim() == 3 and any(
        value_of(n).dim() > 3 for n in flow.mainline(node, None) if is_map(value_of(n))
    ):
        return "joins token sequences: M1"
    return ""


def _are_not_parallel(flow: Flow, node: fx.Node, parts: list[fx.Node], fork: fx.Node) -> str:
    """M3 to M5."""
    if len(set(parts)) < len(parts) or any(_is_handed_through(flow, part, fork) for part in parts):
        return FEATURE_REUSE
    if _derived(flow, node):
        return FEATURE_REUSE
    if not any(flow.holds_convolution(part, fork) for part in parts):
        return "no part holds a convolution: M4"
    if all(flow.operations.is_slice(entry) for entry in flow.entries(node, fork)):
        return SLICES
    return ""


def _is_handed_through(flow: Flow, part: fx.Node, fork: fx.Node) -> bool:
    """Whether the part is the fork itself, perhaps a copy of it, or behind an identity, a drop or a gain."""
    while part is not fork and (flow.operations.is_gain(part) or _is_copy(flow, part)):
        part = flow.operations.sources(part)[0]
    return part is fork


def _is_copy(flow: Flow, part: fx.Node) -> bool:
    """Whether the part has the values of what it is made of, in its shape."""
    if not flow.operations.is_rearrangement(part):
        return False
    before = value_of(flow.operations.sources(part)[0])
    return is_map(before) and bool(before.shape == value_of(part).shape)


def _exchange(flow: Flow, a: fx.Node, b: fx.Node) -> bool:
    """Whether values of one part's way go into the other's, after the last that all of both comes from."""
    fork = flow.fork(a, b)
    return not set(flow.region(a, fork)).isdisjoint(flow.region(b, fork))


def _goes_on_in_a_block(flow: Flow, node: fx.Node, blocks: _Blocks) -> bool:
    """Whether a module around the concat lacks the skip add that others of its code have, and convolves it further."""
    for path in enclosing(block_of(node)):
        if path not in blocks.paths and forward_of(flow, path) in blocks.forwards:
            pending, seen = [node], {node}
            while pending:
                users = [user for user in pending.pop().users if runs_in(user, path) and user not in seen]
                if any(flow.operations.holds_convolution(user) for user in users):
                    return True
                seen.update(users)
                pending += users
    return False


def _derived(flow: Flow, node: fx.Node) -> bool:
    """Whether some part of the concat `node` is on the way to another."""
    parts = set(parts_of(node))
    earliest = min(parts, key=flow.order.__getitem__)
    # One walk back from all parts together; what comes before the earliest part leads to no other.
    behind = (step for step in flow.region(node, earliest) if step is not node)
    return any(source in parts for step in behind for source in flow.operations.sources(step))
