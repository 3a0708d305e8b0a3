"""R11: an operand that is numbers drawn at each position, scaled, is no branch but the spread of a sample.

A variational autoencoder adds `sigma * eps` to `mu`; both are convolutions of one value, and sigma is bent (`exp`), so
that it looks like a block with a projected shortcut. What tells it from a drop or from Shake-Shake's weights: these are
compared, or stand for a whole map, while `eps` is normal and there is one for every number of the map.
"""

from __future__ import annotations

import torch
from torch import fx

from ..tracing.nodes import value_of
from .flow import Flow
from .operations import Operations, name_of

_NORMAL = {"randn", "randn_like", "normal", "normal_"}


def is_spread(flow: Flow, operand: fx.Node) -> bool:
    """Whether the last thing that the operand's way passes, but gains and rearrangements, is a product with a draw."""
    operations = flow.operations
    step = operand
    while len(sources := operations.sources(step)) == 1:
        if operations.is_multiplication(step) and any(
            _is_drawn_at_each_position(operations, factor, step) for factor in step.all_input_nodes
        ):
            return True
        if not (operations.is_gain(step) or operations.is_rearrangement(step)):
            return False
        step = sources[0]
    return False


def _is_drawn_at_each_position(operations: Operations, factor: fx.Node, product: fx.Node) -> bool:
    """Whether the factor is normal numbers, one for each of the product's; moved or scaled, but no more."""
    value = value_of(factor)
    if not isinstance(value, torch.Tensor) or value.shape != value_of(product).shape:
        return False
    while name_of(factor) not in _NORMAL:
        makers = factor.all_input_nodes
        if operations.carries[factor] or len(makers) != 1:
            return False
        if not (operations.is_gain(factor) or operations.is_rearrangement(factor)):
            return False
        factor = makers[0]
    return not operations.carries[factor]
