"""Where an attention goes for each placement: the SE paper's Table 14 (standard, pre, post, identity), its Table 15
(conv3x3) and EPSANet's replacement of the spatial convolution.

An `Edit` says which value the attention reads and which nodes read the attention instead of that value. For `replace`
the attention reads what the convolution read and stands in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ..tracing.nodes import block_of, value_of
from ..types import Placement
from .anatomy import Anatomy
from .flow import Flow
from .found import GraphSites
from .operations import name_of


@dataclass(frozen=True)
class Edit:
    """One change of a graph: `value` is gated for `readers` (None: for all of them), or `replaced` is superseded."""

    value: fx.Node
    channel_axis: int
    readers: tuple[fx.Node, ...] | None = None
    replaced: fx.Node | None = None

    @property
    def channels(self) -> int:
        return int(value_of(self.value).shape[self.channel_axis])


def edit_for(graph: GraphSites, anatomy: Anatomy, placement: Placement) -> Edit | str:
    """The edit that puts an attention at `placement`, or why this block has no such place.

    Existing attention (kind "attention") is always replaced where it is.
    """
    if anatomy.kind == "attention":
        found = graph.existing[anatomy.gated]
        return Edit(found.features, found.channel_axis, replaced=found.product)
    if placement == "standard":
        return Edit(anatomy.gated, anatomy.channel_axis)
    if anatomy.branch is None or (placement == "identity" and anatomy.shortcut is None):
        return f"placement {placement} needs a residual block, and this is a {anatomy.kind} site"
    match placement:
        case "post":
            return _at(graph, placement, after_activation(graph.flow, anatomy.join))
        case "identity":
            assert anatomy.shortcut is not None
            return _at(graph, placement, anatomy.shortcut, readers=(anatomy.join,))
        case "pre":
            return _before_branch(graph, anatomy)
        case _:
            return _at_spatial_convolution(graph.flow, anatomy, placement)


def _at(
    graph: GraphSites, placement: Placement, value: fx.Node, readers: tuple[fx.Node, ...] | None = None
) -> Edit | str:
    """The edit at `value`, on the channel axis that it has there: a branch may have moved it (ConvNeXt)."""
    axis = graph.axes[value]
    if axis is None:
        return f"placement {placement} needs a value whose channel axis is known, and that of {value.name} is not"
    return Edit(value, axis, readers=readers)


def after_activation(flow: Flow, join: fx.Node) -> fx.Node:
    """The activation directly after the add, if the add has no other reader; else the add."""
    readers = list(join.users)
    if len(readers) == 1 and _is_activation(flow, readers[0]) and block_of(readers[0]) == block_of(join):
        return readers[0]
    return join


def _is_activation(flow: Flow, node: fx.Node) -> bool:
    operations = flow.operations
    before = value_of(node.all_input_nodes[0]) if node.all_input_nodes else None
    after = value_of(node)
    return (
        operations.is_nonlinear(node)
        and not operations.holds_convolution(node)
        and len(node.all_input_nodes) == 1
        and isinstance(before, torch.Tensor)
        and isinstance(after, torch.Tensor)
        and before.shape == after.shape
    )


def _before_branch(graph: GraphSites, anatomy: Anatomy) -> Edit | str:
    flow = graph.flow
    fork, branch = anatomy.fork, anatomy.branch
    if fork is None or branch is None or not isinstance(value_of(fork), torch.Tensor):
        return "placement pre needs a block whose branch starts from one value"
    if value_of(fork).dim() != value_of(branch).dim():
        return "placement pre needs a branch that starts from a feature map"
    # A branch that begins by changing its input in place has changed the shortcut too: the gate goes after that.
    while (
        len(entries := flow.entries(branch, fork)) == 1 and _is_in_place(flow, entries[0]) and entries[0] is not branch
    ):
        fork = entries[0]
    return _at(graph, "pre", fork, readers=tuple(flow.entries(branch, fork)))


def _is_in_place(flow: Flow, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(flow.operations.module(node), "inplace", False))
    return bool(node.kwargs.get("inplace")) or (node.op == "call_method" and name_of(node).endswith("_"))


def _at_spatial_convolution(flow: Flow, anatomy: Anatomy, placement: Placement) -> Edit | str:
    assert anatomy.branch is not None
    spatial = [n for n in flow.mainline(anatomy.branch, anatomy.fork) if flow.operations.spatial_kernel(n) > 1]
    if len(spatial) != 1:
        beside = [n for n in flow.region(anatomy.branch, anatomy.fork) if flow.operations.spatial_kernel(n) > 1]
        count = f"{len(beside)} side by side" if beside and not spatial else str(len(spatial))
        return f"placement {placement} needs a block with one spatial convolution, and this one has {count}"
    conv = spatial[0]
    if placement == "conv3x3":
        return Edit(conv, 1)
    if conv.op != "call_module":
        return "placement replace needs a convolution that is a module"
    return Edit(conv.all_input_nodes[0], 1, replaced=conv)
