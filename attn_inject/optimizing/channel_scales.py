"""Scales of the channels after a gate, such as a layer scale: for the gate's weights, so that one map serves both.

    P(v w) * s = P(v) * (w s)

for weights w (N, C) and a scale s with one number per channel, or a single one. Conditions:
 C1. From the gate to the scale each value has one reader, so that nobody misses what was between.
 C2. P is made of operations that treat every element alike: identities without hooks, dropout (not in place), and
     permutations that together change nothing. With such a P the value must be one that is kept (`may_move`).
 C3. The scale is a number, or a tensor whose axes are 1 but the channels', and is known to be.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn

from ..tracing.hook_tables import is_hooked
from ..tracing.nodes import value_of
from .identities import is_idle

_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply)
_PRODUCT_METHODS = ("mul", "mul_", "multiply", "multiply_")
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def take_scales(root: nn.Module, gate: fx.Node, *, may_move: bool) -> tuple[fx.Node, fx.Node, list[fx.node.Argument]]:
    """Let the value of a gate's call go past it to the last scale, where the gate's weights are to be used.

    Returns the node that gives the value there, the node in whose place the product is to stand, and the scales; the
    gate's argument, the gate and nothing where no scale follows.
    """
    scales = list(_scales_after(root, gate, may_move=may_move))
    if not scales:
        return _map_of(gate), gate, []
    gate.replace_all_uses_with(_map_of(gate))
    *others, (last, _) = scales
    for scaling, _ in others:
        scaling.replace_all_uses_with(_map_of(scaling, scales))
        scaling.graph.erase_node(scaling)
    return _map_of(last, scales), last, [scale for _, scale in scales]


def _map_of(node: fx.Node, scales: list[tuple[fx.Node, fx.node.Argument]] | None = None) -> fx.Node:
    """The map that a gate or a scaling works on."""
    factors = [factor for scaling, factor in scales or [] if scaling is node]
    found = next(each for each in node.args if isinstance(each, fx.Node) and each not in factors)
    assert isinstance(found, fx.Node)
    return found


def _scales_after(root: nn.Module, gate: fx.Node, *, may_move: bool) -> Iterator[tuple[fx.Node, fx.node.Argument]]:
    """The products with scales after a gate, and the scales (C1 to C3)."""
    shape = getattr(value_of(_map_of(gate)), "shape", None)
    if shape is None:
        return
    plain = order = tuple(range(len(shape)))
    node = gate
    while len(node.users) == 1:
        (reader,) = node.users
        moved = _permuted(reader, order)
        if moved is not None or _treats_alike(root, reader):
            if not may_move:
                return
            order = order if moved is None else moved
        else:
            factor = _factor(reader, node, shape)
            if factor is None or order != plain:
                return
            yield reader, factor
        node = reader


def _treats_alike(root: nn.Module, node: fx.Node) -> bool:
    if node.op != "call_module" or is_idle(root, node):
        return node.op == "call_module"
    module = root.get_submodule(str(node.target))
    return type(module) in _DROPOUTS and not getattr(module, "inplace", False) and not is_hooked(module)


def _permuted(node: fx.Node, order: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which axis stands where after the node, if it permutes them."""
    is_method = node.op == "call_method" and node.target == "permute"
    if not is_method and node.target is not torch.permute:
        return None
    given = node.args[1:] if len(node.args) > 2 else node.args[1] if len(node.args) == 2 else ()
    if not isinstance(given, (tuple, list)) or sorted(map(repr, given)) != sorted(map(repr, range(len(order)))):
        return None
    return tuple(order[axis] for axis in given if isinstance(axis, int))


def _factor(node: fx.Node, value: fx.Node, shape: torch.Size) -> fx.node.Argument:
    """What the node multiplies the value by, if it is a scale of the channels (C3)."""
    known = node.target in (_PRODUCT_METHODS if node.op == "call_method" else _PRODUCTS)
    if not known or len(node.args) != 2 or node.kwargs:
        return None
    other = node.args[1] if node.args[0] is value else node.args[0]
    if isinstance(other, (int, float)) and not isinstance(other, bool):
        return other
    if not isinstance(other, fx.Node) or other is value:
        return None
    made = value_of(other)
    if not isinstance(made, torch.Tensor) or made.dim() > len(shape):
        return None
    axes = (1,) * (len(shape) - made.dim()) + tuple(made.shape)
    return other if axes[1] in (1, shape[1]) and all(n == 1 for i, n in enumerate(axes) if i != 1) else None
