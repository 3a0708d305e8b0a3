"""Channel attention that a block already has, recognised by structure.

A1. A multiply of two data-carrying values, one of them a map, the other (the gate) with no more than one position per
    channel and derived from the map (or from what the map derives from) by a spatial mean.
A2. The gate's last operation before the multiply is nonlinear (sigmoid-like), apart from views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from .anatomy import Anatomy
from .flow import Flow
from .operations import name_of

_MULTIPLICATIONS = {"mul", "mul_", "imul", "multiply", "__mul__", "__imul__"}


@dataclass(frozen=True)
class Attended:
    """Existing channel attention: `product = features * gate`, in the `forward` of the module `path`."""

    product: fx.Node
    features: fx.Node
    gate: fx.Node
    path: str
    channel_axis: int = 1


def find_attention(flow: Flow) -> dict[fx.Node, Attended]:
    """All channel attention of a graph by the product node, in execution order."""
    found = {node: _attended(flow, node) for node in flow.order if flow.operations.carries[node]}
    return {node: attended for node, attended in found.items() if attended is not None}


def anatomy_of(flow: Flow, found: Attended) -> Anatomy:
    """Existing attention as a site of its own: gated in the place where it already is."""
    return Anatomy("attention", found.product, found.product, found.channel_axis, flow.fork(found.features, found.gate))


def _attended(flow: Flow, node: fx.Node) -> Attended | None:
    if node.op not in ("call_function", "call_method") or name_of(node) not in _MULTIPLICATIONS:
        return None
    operands = flow.operations.sources(node)
    if len(operands) != 2:
        return None
    for features, gate in (operands, operands[::-1]):
        fmap, weights = features.meta.get("val"), gate.meta.get("val")
        if not (isinstance(fmap, torch.Tensor) and isinstance(weights, torch.Tensor)):
            continue
        if fmap.dim() < 3 or fmap.shape != node.meta["val"].shape or weights.numel() >= fmap.numel():
            continue
        wide = [axis for axis, extent in enumerate(weights.shape) if axis and extent != 1]
        if len(wide) == 1 and weights.dim() == fmap.dim() and _is_gate(flow, features, gate):
            return Attended(node, features, gate, str(node.meta["block"]), wide[0])
    return None


def _is_gate(flow: Flow, features: fx.Node, gate: fx.Node) -> bool:
    fork = flow.fork(features, gate)
    if fork is None or not flow.is_nonlinear(gate, fork):
        return False
    step = gate
    while flow.operations.is_rearrangement(step) and len(flow.operations.sources(step)) == 1:
        step = flow.operations.sources(step)[0]
    return flow.operations.is_nonlinear(step)


def existing_attention(flow: Flow, anatomy: Anatomy, attended: dict[fx.Node, Attended]) -> str:
    """The paths of the modules whose attention a block already has, comma-separated; empty if there is none."""
    if not attended:
        return ""
    if anatomy.kind == "attention":
        return attended[anatomy.gated].path
    region = flow.region(anatomy.branch or anatomy.gated, anatomy.fork)
    inside = sorted((node for node in region if node in attended), key=flow.order.__getitem__)
    return ", ".join(dict.fromkeys(attended[node].path for node in inside))
