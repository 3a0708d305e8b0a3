"""Which value of a block its attention reads and weighs.

R8. The gated value: from the add back along the branch, past rearrangements, gains and drops, to the last convolution,
    norm, activation or existing attention; where only a slice of the branch is added, the value before it is sliced. A
    number times a sum is a mean and stays: in train mode its parts may be weighed otherwise (Shake-Shake).
"""

from __future__ import annotations

import torch
from torch import fx

from ..tracing.nodes import value_of
from .flow import Flow


def gated_value(flow: Flow, fork: fx.Node, branch: fx.Node) -> fx.Node:
    """The value to gate on the way back from the add (R8)."""
    operations = flow.operations
    gated = step = branch
    while step is not fork:
        sources = operations.sources(step)
        if len(sources) != 1 or not isinstance(value_of(sources[0]), torch.Tensor) or sources[0] is fork:
            break
        if _is_mean(flow, step):
            break
        if (
            operations.is_gain(step)
            or (operations.is_slice(step) and value_of(step).dim() == value_of(sources[0]).dim())
            or operations.leaves_type_of_weights(step)
        ):
            gated = sources[0]
        elif not operations.is_rearrangement(step):
            break
        step = sources[0]
    return gated


def _is_mean(flow: Flow, node: fx.Node) -> bool:
    """Whether the node is a sum of two values, times a number or divided by one."""
    operations = flow.operations
    (source,) = operations.sources(node)
    summed = operations.adds_maps(source) and len(operations.sources(source)) == 2
    return summed and operations.is_gain(node) and any(isinstance(a, int | float) for a in node.args)
