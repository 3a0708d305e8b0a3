"""Channel attention that a block already has, recognised by structure.

A1. A multiply of two data-carrying values, one of them a map, the other (the gate) with no more than one position per
    channel (before it is spread over the map, where it is) and derived from the map, or from what the map derives
    from; so that a pool or another reduction over positions lies between.
A2. The gate's last operation before the multiply is a nonlinear function of one value (sigmoid-like), apart from views
    and from scaling or shifting by constants (relu6(x + 3) / 6, 1 + tanh(x)). A quotient of two values that come from
    the map is a norm (global response normalisation).
A3. A block has what scales maps on the way from its fork: not what scales the weights of a convolution, nor what
    belongs to a block within it (the groups of RCAN, whose blocks have attention).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx

from ..tracing.nodes import block_of, value_of
from .anatomy import Anatomy
from .flow import Flow
from .operations import Operations


@dataclass(frozen=True)
class ExistingGate:
    """Existing channel attention: `product = features * gate`, in the `forward` of the module `path`."""

    product: fx.Node
    features: fx.Node
    gate: fx.Node
    path: str
    channel_axis: int = 1


def find_attention(flow: Flow) -> dict[fx.Node, ExistingGate]:
    """All channel attention of a graph by the product node, in execution order."""
    found = {node: _existing_gate(flow, node) for node in flow.order if flow.operations.carries[node]}
    return {node: gate for node, gate in found.items() if gate is not None}


def anatomy_of(flow: Flow, found: ExistingGate) -> Anatomy:
    """Existing attention as a site of its own: gated in the place where it already is."""
    return Anatomy("attention", found.product, found.product, found.channel_axis, flow.fork(found.features, found.gate))


def _existing_gate(flow: Flow, node: fx.Node) -> ExistingGate | None:
    if not flow.operations.is_multiplication(node):
        return None
    operands = flow.operations.sources(node)
    if len(operands) != 2:
        return None
    for features, spread in (operands, operands[::-1]):
        gate = _before_spreading(flow, spread)
        fmap, weights = value_of(features), value_of(gate)
        if not (isinstance(fmap, torch.Tensor) and isinstance(weights, torch.Tensor)):
            continue
        if fmap.dim() < 3 or fmap.shape != value_of(node).shape or weights.numel() >= fmap.numel():
            continue
        wide = [axis for axis, extent in enumerate(weights.shape) if axis and extent != 1]
        if len(wide) == 1 and weights.dim() == fmap.dim() and _is_gate(flow, features, gate):
            return ExistingGate(node, features, gate, block_of(node), wide[0])
    return None


def _before_spreading(flow: Flow, gate: fx.Node) -> fx.Node:
    """The value that `expand` or an upsampling repeats at every position; `gate` itself if nothing does."""
    step = gate
    while flow.operations.is_rearrangement(step) or flow.operations.upsamples(step):
        sources = flow.operations.sources(step)
        before, after = (value_of(node) for node in (sources[0], step))
        if not (isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)):
            break
        step = sources[0]
        if before.numel() < after.numel():
            gate = step
    return gate


def _is_gate(flow: Flow, features: fx.Node, gate: fx.Node) -> bool:
    fork = flow.fork(features, gate)
    if fork is None or not flow.is_nonlinear(gate, fork):
        return False
    operations = flow.operations
    step = gate
    while len(operations.sources(step)) == 1 and (
        operations.is_rearrangement(step) or operations.is_slice(step) or _scales_or_shifts(operations, step)
    ):
        step = operations.sources(step)[0]
    return operations.is_nonlinear(step) and len(operations.sources(step)) == 1


def _scales_or_shifts(operations: Operations, node: fx.Node) -> bool:
    """Whether the node multiplies, divides or adds a number."""
    constants = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, int | float)]
    return bool(constants) and (operations.is_gain(node) or operations.is_addition(node))


def existing_attention(
    flow: Flow, anatomy: Anatomy, gates: dict[fx.Node, ExistingGate], sites: Iterable[Anatomy] = ()
) -> str:
    """The paths of the modules whose attention a block already has, comma-separated; empty if there is none.

    `sites` are all of the graph: what blocks within this one have is theirs.
    """
    if not gates:
        return ""
    if anatomy.kind == "attention":
        return gates[anatomy.gated].path
    region = _region(flow, anatomy)
    inside = sorted((node for node in region if node in gates), key=flow.order.__getitem__)
    for other in (other for other in sites if inside and other.join in region and other.join is not anatomy.join):
        theirs = _region(flow, other)
        inside = [node for node in inside if node not in theirs]
    if (fork := anatomy.fork) is not None:
        # What else the branch is made of (weights that a style scales) has no attention of the block's.
        inside = [node for node in inside if flow.descends(gates[node].features, fork)]
    return ", ".join(dict.fromkeys(gates[node].path for node in inside))


def _region(flow: Flow, anatomy: Anatomy) -> set[fx.Node]:
    return set(flow.region(anatomy.branch or anatomy.gated, anatomy.fork))
