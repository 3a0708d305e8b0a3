"""Residual sites: the branch of a skip add.

The principle (numbered; reasons and tests cite the numbers). For an add of two feature maps of the same shape:

 R1. Both operands carry the network's data, are different values, have the rank of feature maps and equal shapes. A
     parameter, a constant, a token sequence or a broadcast value is no operand of a block's add.
 R2. They lead back to one *fork*: the nearest value that both come from, or an operand that the other one derives from.
 R3. The *shortcut* is the operand whose way back to the fork is affine. One activation of the fork itself before its
     projection is still a shortcut (pre-activation, DPN) where the branch goes on being nonlinear after a convolution.
 R4. The *branch* is nonlinear on its way and holds a convolution of positions: `x + x * gate(x)` convolves pooled
     values only, and is attention itself. Both affine: re-parameterised branches. Both nonlinear: a fusion.
 R6. A branch that comes back from a coarser map by upsampling, where the shortcut does not, is a multi-resolution
     fusion (feature pyramid, hourglass) if the shortcut is a projection, if the branch holds block ends of its own, or
     if one of its values is read elsewhere too. A block that only looks at a coarser map on its way stays a block, as
     does one whose branch goes down and comes back inside one child of the block (attention on a reduced map). A branch
     that is resampled last, to the size that it has, is such a fusion too if one of its values is read elsewhere. The
     deeper levels of a U-Net that one `forward` writes out are fusions as the outermost is.
 R7. A sum that is a part of a concat of parallel sums, all in one block, is a cell combination (NASNet).
R11. An operand that is normal numbers drawn at each position, scaled, is the spread of a sample (`sampling`); R9 and
     R10 are in `agreement`, R14 is in `outputs`, R8 (which value is gated) in `gated`, R5 in `split_scale`.
R12. Modules that a function runs by itself, with a backward of its own (a reversible network's), are not looked into.
R13. What is no site in train mode is none in eval mode (`select`).
R15. What no gradient comes back to is none (`trained`); R16, of what a condition scales, is in `modulation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from ..tracing.nodes import block_of, frame_of, value_of
from .anatomy import Anatomy, Refusal
from .flow import Flow
from .gated import gated_value
from .modulation import is_modulation
from .operations import is_map, parts_of
from .reasons import (
    CELL_COMBINATION,
    CONSTANT,
    DIFFERENCE,
    FUSION,
    MODULATION,
    MULTI_RESOLUTION,
    OTHER_INPUTS,
    REPARAMETERISED,
    SAMPLE,
    SPLIT_SCALE,
)
from .resolution import climbs, is_level_within, is_multi_resolution
from .sampling import is_spread
from .split_scale import is_split_scale

# A shortcut is a handful of operations; the search for one that the dominator tree does not show stops here.
_SHORTCUT_REACH = 48
Ends = dict[fx.Node, Anatomy]
"""The adds that were found to be blocks' ends, with their sites."""


def find_residual(flow: Flow, axes: dict[fx.Node, int | None]) -> tuple[list[Anatomy], list[Refusal]]:
    """Every residual site of the graph, and every other tensor add with its reason."""
    refusals: list[Refusal] = []
    ends: Ends = {}
    for node in flow.order:
        if not flow.operations.carries[node]:
            continue
        if (count := flow.operations.maps_added_at_once(node)) > 2:
            refusals.append(Refusal(node, "add", f"adds {count} maps at once, not two: R1"))
        elif flow.operations.adds_maps(node):
            outcome = _judge(flow, axes, node, ends)
            if isinstance(outcome, str):
                refusals.append(Refusal(node, "add", outcome))
            else:
                ends[node] = outcome
    fusions = [refusal.node for refusal in refusals if refusal.reason == MULTI_RESOLUTION]
    levels = [join for join, site in ends.items() if is_level_within(flow, site, fusions)]
    refusals += [Refusal(join, "add", MULTI_RESOLUTION, ends.pop(join)) for join in levels]
    return list(ends.values()), refusals


def find_differences(flow: Flow, axes: dict[fx.Node, int | None], ends: Ends) -> list[Refusal]:
    """Every subtraction that would be a block's end if it were an add."""
    return [
        Refusal(node, "subtraction", DIFFERENCE)
        for node in flow.order
        if flow.operations.subtracts(node) and isinstance(_judge(flow, axes, node, ends), Anatomy)
    ]


def cells_of(refusals: list[Refusal]) -> set[str]:
    """The paths of the blocks that R7 found to be cells; a cell that is the whole model names no path to be within."""
    return {block_of(r.node) for r in refusals if r.reason == CELL_COMBINATION} - {""}


def _judge(flow: Flow, axes: dict[fx.Node, int | None], node: fx.Node, ends: Ends) -> Anatomy | str:
    operations = flow.operations
    a, b = operations.addends(node)
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or not (operations.carries[a] and operations.carries[b]):
        return CONSTANT
    if a is b:
        return "adds a value to itself: R1"
    va, vb = value_of(a), value_of(b)
    if not (isinstance(va, torch.Tensor) and isinstance(vb, torch.Tensor)):
        return "adds something that is no tensor: R1"
    if va.dim() != vb.dim():
        return f"adds tensors of different ranks, {va.dim()} and {vb.dim()}: R1"
    if not (is_map(va) and is_map(vb)):
        return f"adds no feature maps, but values of rank {va.dim()}: R1"
    if va.shape != vb.shape:
        return f"adds a broadcast value, {tuple(va.shape)[1:]} and {tuple(vb.shape)[1:]}: R1"
    for operand in (a, b):
        if (narrow := _repeated_from(flow, operand)) is not None:
            return f"adds a broadcast value, {tuple(narrow.shape)[1:]} expanded to {tuple(va.shape)[1:]}: R1"
    if is_spread(flow, a) or is_spread(flow, b):
        return SAMPLE
    found = _shortcut_and_branch(flow, node, a, b, ends)
    if isinstance(found, str):
        return found
    fork, shortcut, branch = found
    reason = _refusal(flow, node, fork, shortcut, branch, ends)
    if reason:
        return reason
    return site_at(flow, axes, node, fork, shortcut, branch)


def _repeated_from(flow: Flow, operand: fx.Node) -> torch.Tensor | None:
    """What `expand` or the like repeats to make the operand; None if nothing does."""
    while flow.operations.is_rearrangement(operand):
        source = flow.operations.sources(operand)[0]
        before, after = value_of(source), value_of(operand)
        if not (isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)):
            return None
        if before.numel() < after.numel():
            return before
        operand = source
    return None


def site_at(
    flow: Flow, axes: dict[fx.Node, int | None], node: fx.Node, fork: fx.Node, shortcut: fx.Node, branch: fx.Node
) -> Anatomy | str:
    """The site of the add `node`, gated by R8; why there is none where the channels cannot be told."""
    gated = gated_value(flow, fork, branch)
    axis = axes.get(gated)
    if axis is None and value_of(gated).shape == value_of(shortcut).shape and shortcut.op != "placeholder":
        # A branch that ends in a product and a reshape is laid out as what it is added to; an input may be anything.
        axis = axes.get(shortcut)
    if axis is None:
        return "the channel axis of the branch cannot be told (attention heads, tokens, steps of time, no batch): R1"
    return Anatomy("residual", gated, node, axis, fork, branch, shortcut)


def _shortcut_and_branch(
    flow: Flow, node: fx.Node, a: fx.Node, b: fx.Node, ends: Ends
) -> tuple[fx.Node, fx.Node, fx.Node] | str:
    """(fork, shortcut, branch), or why there are none: rules R2 to R4."""
    fork = flow.fork(a, b)
    if fork is not None:
        bent = [flow.is_nonlinear(operand, fork) for operand in (a, b)]
        if bent == [False, False]:
            return REPARAMETERISED
        if bent == [False, True] or bent == [True, False]:
            shortcut, branch = (a, b) if bent[1] else (b, a)
            if not (
                flow.holds_convolution(branch, fork) and _convolves_positions(flow, flow.region(branch, fork), branch)
            ):
                return f"no convolution in the branch ({_kind_of_map(branch)}): R4"
            return fork, shortcut, branch
    for shortcut, branch in ((a, b), (b, a)):
        direct = _derived_fork(flow, node, shortcut, branch, ends)
        if direct is not None:
            return direct, shortcut, branch
    if fork is not None:
        for shortcut, branch in ((a, b), (b, a)):
            if _is_preactivated(flow, shortcut, fork) and _bends_after_convolution(flow, branch, fork):
                return fork, shortcut, branch
        return FUSION
    return OTHER_INPUTS


def _convolves_positions(flow: Flow, nodes: Iterable[fx.Node], branch: fx.Node) -> bool:
    """Whether one of `nodes` convolves more than one position, if the branch has more: not a gate's pooled values.

    A layer that was kept whole may convolve by its own code (CondConv mixes a kernel for each image).
    """
    shape = value_of(branch).shape
    operations = flow.operations
    # Channels may come last in the branch.
    has_one = min(shape[2:].numel(), shape[1:-1].numel()) == 1
    return any(
        (operations.holds_convolution(node) or operations.is_weighted_by_own_code(node))
        and (has_one or not _is_pooled(value_of(node)))
        for node in nodes
    )


def _is_pooled(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 2 and value.shape[2:].numel() == 1


def _kind_of_map(node: fx.Node) -> str:
    return "a token sequence" if value_of(node).dim() == 3 else "a token mixer or a plain product"


def _derived_fork(flow: Flow, node: fx.Node, shortcut: fx.Node, branch: fx.Node, ends: Ends) -> fx.Node | None:
    """A value on the shortcut's affine way back from which the branch derives, though not the branch alone (R2).

    The way leads through the block's own running sum: `x + f(x) + g(x)` has two branches and one shortcut. A branch
    that comes up is none, unless the shortcut comes up too.
    """
    step, sums, both_rise = shortcut, True, False
    for _ in range(_SHORTCUT_REACH):
        region = [n for n in flow.region(branch, step) if n is not step]
        if any(step in flow.operations.sources(n) for n in region):
            bends = any(flow.operations.is_nonlinear(n) for n in region)
            convolves = _convolves_positions(flow, region, branch)
            # An input that is resized to the branch's size, a condition, is no coarser map of the network.
            rises = not both_rise and any(
                climbs(flow, n) and (flow.descends(n, step) or flow.holds_convolution(n, None)) for n in region
            )
            return step if bends and convolves and not rises else None
        before = ends[step].shortcut if sums and step in ends and same_frame(step, node) else None
        sums = before is not None
        sources = flow.operations.sources(step)
        if before is None and (flow.operations.is_nonlinear(step) or len(sources) != 1 or flow.is_given(step)):
            return None
        both_rise = both_rise or climbs(flow, step)
        step = before or sources[0]
    return None


def _is_preactivated(flow: Flow, shortcut: fx.Node, fork: fx.Node) -> bool:
    """Whether every nonlinearity of the shortcut stands between the fork and its first convolution (R3)."""
    steps = list(flow.mainline(shortcut, fork))
    if len(steps) > _SHORTCUT_REACH or any(len(flow.operations.sources(step)) > 1 for step in steps):
        return False
    bent = [flow.operations.is_nonlinear(step) for step in steps]
    convolved = [flow.operations.holds_convolution(step) for step in steps]
    if not any(convolved):
        return False
    first = max(index for index, holds in enumerate(convolved) if holds)
    return sum(convolved) == 1 and not any(bent[: first + 1])


def _bends_after_convolution(flow: Flow, branch: fx.Node, fork: fx.Node) -> bool:
    """Whether something nonlinear follows a convolution on the branch."""
    after = False
    for step in flow.mainline(branch, fork):
        if flow.operations.holds_convolution(step) and after:
            return True
        after = after or flow.operations.is_nonlinear(step)
    return False


def _refusal(flow: Flow, node: fx.Node, fork: fx.Node, shortcut: fx.Node, branch: fx.Node, ends: Ends) -> str | None:
    """Rules R1 (token sequences), R5, R6 and R7 on an add that R2 to R4 took."""
    rank = value_of(node).dim()
    if rank == 3 and not _is_sequence_network(flow, branch, fork):
        return "adds token sequences (rank 3 among maps of a higher rank): R1"
    if is_split_scale(flow, node, fork, shortcut, branch):
        return SPLIT_SCALE
    if is_modulation(flow, fork, shortcut, branch):
        return MODULATION
    if is_multi_resolution(flow, node, fork, shortcut, branch, ends):
        return MULTI_RESOLUTION
    if _is_cell_combination(flow, node):
        return CELL_COMBINATION
    return None


def _is_sequence_network(flow: Flow, branch: fx.Node, fork: fx.Node) -> bool:
    """Whether the branch's convolutions are one-dimensional, so that rank 3 is a feature map."""
    return all(
        isinstance(value := value_of(step), torch.Tensor) and value.dim() == 3
        for step in flow.region(branch, fork)
        if flow.operations.holds_convolution(step)
    )


def _is_cell_combination(flow: Flow, node: fx.Node) -> bool:
    operations = flow.operations
    for reader in node.users:
        if operations.is_concatenation(reader) and same_frame(reader, node):
            sums = [p for p in parts_of(reader) if operations.adds_maps(p) and same_frame(p, node)]
            if any(not flow.descends(b, a) for a, b in pairwise(sorted(sums, key=flow.order.__getitem__))):
                return True
    return False


def same_frame(a: fx.Node, b: fx.Node) -> bool:
    return frame_of(a) == frame_of(b)
