"""The pool taken at the input of the last 1x1 convolution, and all that is affine after it made one small layer.

A mean over space commutes with a stride-1 1x1 convolution and with a norm's affine map, and the first step of every
gate is affine too (SE's first layer, ECA's convolution), so that

    squeeze(mean(scale * (W x + b) + shift)) = M mean(x) + m,    M: H x C_in

with M and m worked out once, in float64. In a bottleneck x is a quarter of the gated value: the pool reads a quarter of
the bytes, and M is smaller than W. Where channels take different linear pools P_1 to P_F (the frequencies of FCA), all
of them are taken of x, and M has a part for each:

    squeeze(P(scale * (W x + b) + shift)) = sum over f of M_f P_f(x) + P_f(1) m_f + squeeze(0)

Conditions:
 E1. The gated value is the output of a `torch.nn` convolution with kernel 1, stride 1, no padding, or of an eval batch
     norm after one.
 E2. The attention is a pure gate (`ChannelGate`) whose pool is linear in the map, called on that value itself.
 E3. The convolution's input is smaller than its output, or nothing is gained.
 E4. At run time: the part of the map that is not read is larger than M, which a single image in the last stages misses;
     then the pool is taken at the output after all.
 E5. None of them has hooks. A gate with hooks, or with some in it, is called as it is.
The call is placed directly after the gated value, before anything can change the convolution's input.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..attention.gating import ChannelGate, for_each_position
from ..tracing.hook_tables import is_hooked
from ..tracing.nodes import mark_gate
from .norm_folding import is_eval_norm, norm_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class EarlyGate(nn.Module):
    """The gate's weights from the *input* of the convolution, or from its output where E4 fails.

    Shapes: (N, C_in, *spatial), (N, C, *spatial) -> (N, C, 1, ...).

    Args:
        gate: the attention. weight, bias: M (H, C_in F) and what is added for every map (H,).
        constant: m (F, H), times the pools of a map of ones. None where they are 1: the mean's m is in `bias`.

    """

    traced_whole = True

    def __init__(
        self, gate: ChannelGate, weight: torch.Tensor, bias: torch.Tensor, constant: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.attention = gate
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.constant = None if constant is None else nn.Parameter(constant, requires_grad=False)

    def pays(self, x: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether the early pool reads less than the late one (E4)."""
        return value.numel() - x.numel() > self.weight.numel()

    def logits(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(N, C_in, *spatial), (N, C, *spatial) -> (N, C)."""
        if not self.pays(x, value):
            return self.attention.logits(self.attention.pool(value))
        pooled = self.attention.linear_pools(x)
        # A gate that sums over a map does so in a type that holds the sum.
        weight, bias = self.weight.to(pooled.dtype), self.bias.to(pooled.dtype)
        if self.constant is not None:
            ones = torch.ones(1, 1, *x.shape[2:], dtype=pooled.dtype, device=x.device)
            bias = bias + self.attention.linear_pools(ones)[0, 0] @ self.constant.to(pooled.dtype)
        return self.attention.excite(F.linear(pooled.flatten(1), weight, bias))

    def forward(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return for_each_position(self.attention.open(self.logits(x, value)), value)


class LateGate(nn.Module):
    """The gate's weights from the gated value itself, for all other pure gates. (N, C, *spatial) -> (N, C, 1, ...)."""

    traced_whole = True

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        self.attention = gate

    def logits(self, value: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> (N, C)."""
        return self.attention.logits(self.attention.pool(value))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return for_each_position(self.attention.open(self.logits(value)), value)


def squeeze_early(root: nn.Module, graph: fx.Graph, modules: list[str]) -> int:
    """Split every pure gate among `modules` into weights and a multiply, pooling early where E1 to E3 hold.

    Returns how many pool early.
    """
    return sum(_split(root, graph, node, early=True) for node in _gates(root, graph, modules))


def split_gates(root: nn.Module, graph: fx.Graph, modules: list[str]) -> None:
    """Split every pure gate into weights and a multiply, all of them pooling the gated value."""
    for node in _gates(root, graph, modules):
        _split(root, graph, node, early=False)


def _gates(root: nn.Module, graph: fx.Graph, modules: list[str]) -> list[fx.Node]:
    calls = [node for node in graph.nodes if node.op == "call_module" and str(node.target) in modules]
    found = [(node, root.get_submodule(str(node.target))) for node in calls]
    return [node for node, module in found if isinstance(module, ChannelGate) and not is_hooked(module)]


def _split(root: nn.Module, graph: fx.Graph, node: fx.Node, *, early: bool) -> bool:
    gate = cast(ChannelGate, root.get_submodule(str(node.target)))
    value = cast(fx.Node, node.args[0])
    pointwise = pointwise_before(root, value) if early and gate.pools_linearly else None
    home, _, child = str(node.target).rpartition(".")
    name = _free_name(root.get_submodule(home), f"{child}_weights")
    path = f"{home}.{name}" if home else name
    setattr(root.get_submodule(home), name, LateGate(gate) if pointwise is None else _merged(gate, pointwise))
    with graph.inserting_after(value):
        weights = graph.call_module(path, (value,) if pointwise is None else (pointwise.node.args[0], value))
    with graph.inserting_before(node):
        product = graph.call_function(torch.mul, (value, weights))
    mark_gate(product, weights)
    node.replace_all_uses_with(product)
    graph.erase_node(node)
    return pointwise is not None


def _free_name(home: nn.Module, name: str) -> str:
    """Each call gets weights of its own, which later rewrites change one at a time, also where a block runs twice."""
    names = itertools.chain([name], (f"{name}{number}" for number in itertools.count(2)))
    return next(free for free in names if not hasattr(home, free))


@dataclass(frozen=True)
class Pointwise:
    """A convolution that a pool commutes with, its node, and the norm after it, if there is one."""

    node: fx.Node
    conv: nn.Module
    norm: nn.Module | None


def pointwise_before(root: nn.Module, value: fx.Node) -> Pointwise | None:
    """The convolution (E1, E3) whose output `value` is, perhaps behind an eval batch norm."""
    norm = None
    if value.op != "call_module":
        return None
    module = root.get_submodule(str(value.target))
    if is_hooked(module):
        return None
    if is_eval_norm(module) and not any(module.children()) and isinstance(value.args[0], fx.Node):
        norm, value = module, value.args[0]
        if value.op != "call_module":
            return None
        module = root.get_submodule(str(value.target))
    return Pointwise(value, module, norm) if commutes_with_pool(module) else None


def commutes_with_pool(conv: nn.Module) -> bool:
    """E1, E3 and E5 for the convolution itself."""
    if type(conv) not in _CONVOLUTIONS or is_hooked(conv):
        return False
    assert isinstance(conv, _CONVOLUTIONS)
    if any(k != 1 for k in conv.kernel_size) or any(s != 1 for s in conv.stride):
        return False
    return conv.in_channels < conv.out_channels and not isinstance(conv.padding, str) and not any(conv.padding)


def _merged(gate: ChannelGate, pointwise: Pointwise) -> EarlyGate:
    conv = pointwise.conv
    assert isinstance(conv, _CONVOLUTIONS)
    weight, bias = conv.weight, conv.bias
    columns = _dense(conv).double().T
    start = torch.zeros_like(columns[0]) if bias is None else bias.double()
    if pointwise.norm is not None:
        scale, shift = norm_of(pointwise.norm)
        columns, start = columns * scale, start * scale + shift
    with torch.no_grad():
        precise = copy.deepcopy(gate).double()
        pools = gate.linear_pools(weight.new_zeros(1, 1, *conv.kernel_size)).shape[2]
        number = gate.pool_of_channel()
        number = torch.zeros_like(start) if number is None else number.to(start.device)
        masks = (number == torch.arange(pools, device=start.device).unsqueeze(1)).to(start)
        origin = precise.squeeze(torch.zeros_like(start)[None])
        by_pool = torch.stack([precise.squeeze(columns * mask) - origin for mask in masks], 1)  # (C_in, F, H)
        merged = by_pool.flatten(0, 1).T.contiguous()
        constant = precise.squeeze(start * masks) - origin
    if gate.pools_mean:
        return EarlyGate(gate, merged.to(weight.dtype), (origin + constant)[0].to(weight.dtype))
    return EarlyGate(gate, merged.to(weight.dtype), origin[0].to(weight.dtype), constant.to(weight.dtype))


def _dense(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> torch.Tensor:
    """The weights of a 1x1 convolution as one (C_out, C_in) matrix, whatever its groups."""
    blocks = conv.weight.detach().flatten(1).chunk(conv.groups)
    if conv.groups == 1:
        return blocks[0]
    whole: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return whole
