"""The pool taken at the input of the last 1x1 convolution.

A mean over space commutes with a stride-1 1x1 convolution: mean(W x + b) = W mean(x) + b. In a bottleneck the input is
a quarter of the output, so the pool reads a quarter of the bytes. Conditions:
 E1. The gated value is the output of a `torch.nn` convolution with kernel 1, stride 1, no padding.
 E2. The attention is a pure gate (`ChannelGate`), called once, on that value itself.
 E3. The convolution's input is smaller than its output, or nothing is gained.
The pool is placed directly before the convolution, so that in-place changes of its input have happened for both.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..attention.gating import ChannelGate

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class EarlyGate(nn.Module):
    """The gate's weights from the *input* of the convolution that makes the gated value.

    (N, C_in, *spatial) -> (N, C_out, 1, ...).
    """

    traced_whole = True

    def __init__(self, conv: nn.Module, gate: ChannelGate) -> None:
        super().__init__()
        self.conv = conv
        self.attention = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(tuple(range(2, x.dim())))
        weight = cast(torch.Tensor, self.conv.weight).flatten(1)
        bias = cast("torch.Tensor | None", self.conv.bias)
        if self.conv.groups == 1:
            squeezed = F.linear(pooled, weight, bias)
        else:
            squeezed = F.conv1d(
                pooled.unsqueeze(2), weight.unsqueeze(2), bias, groups=cast(int, self.conv.groups)
            ).squeeze(2)
        weights = self.attention.gate(squeezed)
        return weights.reshape(*weights.shape, *(1,) * (x.dim() - 2))


class LateGate(nn.Module):
    """The gate's weights from the gated value itself, for all other pure gates. (N, C, *spatial) -> (N, C, 1, ...)."""

    traced_whole = True

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        self.attention = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.attention.gate(self.attention.pool(x))
        return weights.reshape(*weights.shape, *(1,) * (x.dim() - 2))


def squeeze_early(root: nn.Module, graph: fx.Graph, modules: list[str]) -> int:
    """Split every pure gate among `modules` into weights and a multiply, pooling early where E1 to E3 hold.

    Returns how many pool early.
    """
    early = 0
    for node in list(graph.nodes):
        if node.op != "call_module" or str(node.target) not in modules:
            continue
        gate = root.get_submodule(str(node.target))
        if not isinstance(gate, ChannelGate):
            continue
        value = node.args[0]
        conv = _early_convolution(root, value)
        home, _, child = str(node.target).rpartition(".")
        name = f"{child}_weights"
        path = f"{home}.{name}" if home else name
        setattr(root.get_submodule(home), name, LateGate(gate) if conv is None else EarlyGate(conv, gate))
        if conv is None:
            with graph.inserting_before(node):
                weights = graph.call_module(path, (value,))
        else:
            early += 1
            with graph.inserting_before(value):
                weights = graph.call_module(path, (value.args[0],))
        with graph.inserting_before(node):
            product = graph.call_function(torch.mul, (value, weights))
        product.meta["gate"] = weights
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    return early


def _early_convolution(root: nn.Module, value: object) -> nn.Module | None:
    if not isinstance(value, fx.Node) or value.op != "call_module":
        return None
    conv = root.get_submodule(str(value.target))
    if not isinstance(conv, _CONVOLUTIONS) or type(conv) not in _CONVOLUTIONS or conv.in_channels >= conv.out_channels:
        return None
    plain = all(k == 1 for k in conv.kernel_size) and all(s == 1 for s in conv.stride)
    return conv if plain and not isinstance(conv.padding, str) and not any(conv.padding) else None
