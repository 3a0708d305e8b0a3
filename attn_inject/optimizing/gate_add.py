"""`branch * gate + shortcut`, and the ReLU after it, without a new map.

The multiply and the add become one operation in the branch's own memory, and the ReLU works in place or with them.
Conditions:
 G1. The product is one that `early_squeeze` wrote: its gate has one position per channel.
 G2. The product's only reader is an add of two maps of one shape.
 G3. The branch is fresh memory: the output of one of torch's own convolutions, norms or activations, which nothing but
     the product (and the gate, which has finished before) reads. Nobody else can see it overwritten. An activation in
     place is as fresh as what it works on. What a hook is shown it may keep.
 G4. The ReLU is the add's only reader; what it overwrites is then nobody else's.
Only for inference: autograd would need what is overwritten.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..tracing.hook_tables import is_hooked
from ..tracing.nodes import inherit, is_gated, is_of_attention, value_of

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_FRESH = tuple(
    f"torch.nn.modules.{home}" for home in ("activation", "batchnorm", "conv", "instancenorm", "normalization")
)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_ACTIVATIONS = (F.relu, F.silu, F.gelu, torch.relu)


def gate_and_add(branch: torch.Tensor, gate: torch.Tensor, shortcut: torch.Tensor, *, relu: bool) -> torch.Tensor:
    """branch * gate + shortcut, perhaps with a ReLU, in `branch`'s memory.

    Shapes: (N, C, *spatial), (N, C, 1, ...), (N, C, *spatial).
    """
    if torch.is_grad_enabled() and (branch.requires_grad or gate.requires_grad or shortcut.requires_grad):
        out = torch.addcmul(shortcut, branch, gate)
    else:
        out = torch.addcmul(shortcut, branch, gate, out=branch)
    return out.relu_() if relu else out


fx.wrap("gate_and_add")


def fuse_gate_and_add(root: nn.Module, graph: fx.Graph) -> int:
    """Fuse where G1 to G3 hold, with the ReLU where G4 does. Returns how many adds were fused."""
    fused = 0
    for product in list(graph.nodes):
        if not is_gated(product) or product.target is not torch.mul:
            continue
        join = sole_add(product)
        branch, gate = product.args
        if join is None or not _is_fresh(root, branch, {product, gate}):
            continue
        shortcut = join.args[1] if join.args[0] is product else join.args[0]
        relu = _sole_relu(root, join)
        with graph.inserting_before(join):
            new = graph.call_function(gate_and_add, (branch, gate, shortcut), {"relu": relu is not None})
        inherit(new, join)
        for old in filter(None, (relu, join, product)):
            old.replace_all_uses_with(new)
            graph.erase_node(old)
        fused += 1
    return fused


def sole_add(product: fx.Node) -> fx.Node | None:
    """The add that is the product's only reader and takes another map of the same shape (G2)."""
    readers = list(product.users)
    if len(readers) != 1 or readers[0].op != "call_function" or readers[0].target not in _ADDITIONS:
        return None
    join = readers[0]
    operands = join.args
    maps = len(operands) == 2 and not join.kwargs and all(isinstance(a, fx.Node) for a in operands)
    if not maps or operands[0] is operands[1]:
        return None
    if join.target is operator.iadd and operands[0] is not product:
        # It changes the shortcut itself, which others may hold.
        return None
    first, second = (_value(operand) for operand in operands)
    known = isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    return join if known and first.shape == second.shape else None  # type: ignore[attr-defined]


def _value(node: object) -> object:
    assert isinstance(node, fx.Node)
    if is_gated(node) or is_of_attention(node):
        return _value(node.args[0])
    return value_of(node)


def _is_fresh(root: nn.Module, branch: object, allowed: set[object]) -> bool:
    if not isinstance(branch, fx.Node) or not set(branch.users) <= allowed:
        return False
    if branch.op == "call_module":
        module = root.get_submodule(str(branch.target))
        known = type(module).__module__ in _FRESH and not is_hooked(module)
        in_place = bool(getattr(module, "inplace", False))
    else:
        known = branch.target in _CONVOLUTIONS + _ACTIVATIONS
        in_place = branch.target in _ACTIVATIONS and (len(branch.args) > 1 or bool(branch.kwargs.get("inplace")))
    return known and (not in_place or _is_fresh(root, branch.args[0], {branch}))


def _sole_relu(root: nn.Module, join: fx.Node) -> fx.Node | None:
    readers = list(join.users)
    if len(readers) != 1:
        return None
    relu = readers[0]
    module = root.get_submodule(str(relu.target)) if relu.op == "call_module" else None
    is_module = type(module) is nn.ReLU and not is_hooked(module)
    return relu if is_module or relu.target in (torch.relu, F.relu, torch.relu_) else None
