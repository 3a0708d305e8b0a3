"""A patched model whose training step moves fewer bytes: the same parameters, values and gradients.

Attention's own traffic in a training step is mostly copies of the gated map. Two rewrites of the train graph:

 T1. `branch * gate`, then `+ shortcut`, as one `addcmul`: the product is never written. The product's only reader must
     be an add of two maps of one shape.
 T2. The pool before the last 1x1 convolution and its batch norm, for the forward pass:

         mean(norm(W x + b)) = (W mean(x) + b - mu) * gamma / sigma + beta

     with the batch's own mu and sigma, which the norm hands out. Backward it stays the pool of the norm's output, whose
     gradient is one number per channel, added in place to the gradient that `addcmul` made: through mu and sigma it
     would need another pass over the map. Conditions are those of `early_squeeze`, for plain torch batch norms only.
     Without a norm after it, the convolution is pooled early in both directions.
"""

from __future__ import annotations

import copy
import operator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..attention.gating import ChannelGate
from ..errors import PlanError
from ..sites.reading import shaped_graph
from ..tracing.injected import InjectedModule
from ..tracing.nodes import inherit
from ..tracing.parts import patched_parts, with_parts
from .early_squeeze import commutes_with_pool
from .gate_add import sole_add

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def optimize_training(patched: nn.Module, *, example_inputs: Any = None) -> InjectedModule:
    """What `surgery.faster.optimize_training` does with a graph; its arguments and errors."""
    parts = patched_parts(patched)
    if example_inputs is not None and "" not in parts:
        raise PlanError(f"example_inputs are for one part: optimize {' and '.join(parts)} by itself")
    faster = {
        path: _faster(part, shaped_graph(patched, "train", example_inputs, scope=path)) for path, part in parts.items()
    }
    return with_parts(patched, faster)  # type: ignore[return-value]


def _faster(inner: InjectedModule, shaped: fx.Graph) -> InjectedModule:
    modules = {insertion.module for insertion in inner.injection.plan.insertions}
    graph = copy.deepcopy(shaped)
    for node in list(graph.nodes):
        called = node.op == "call_module" and str(node.target) in modules
        if called and isinstance(inner.get_submodule(str(node.target)), ChannelGate):
            _rewrite(inner, graph, node)
    graph.lint()
    return inner.with_graph("train", graph)


def _rewrite(root: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    value = cast(fx.Node, node.args[0])
    join = sole_add(node)
    pooled, value = _pooled(root, graph, node, value)
    with graph.inserting_before(node):
        gate = graph.get_attr(str(node.target))
        weights = graph.call_function(weights_of, (gate, pooled, value))
        if join is None:
            new = graph.call_function(torch.mul, (value, weights))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            return
    shortcut = join.args[1] if join.args[0] is node else join.args[0]
    with graph.inserting_before(join):
        new = graph.call_function(torch.addcmul, (shortcut, value, weights))
    inherit(new, join)
    join.replace_all_uses_with(new)
    graph.erase_node(join)
    graph.erase_node(node)


def _pooled(root: nn.Module, graph: fx.Graph, node: fx.Node, value: fx.Node) -> tuple[fx.Node, fx.Node]:
    """(the pooled vector, the gated value) as nodes; T2 where it holds."""
    gate_module = cast(ChannelGate, root.get_submodule(str(node.target)))
    norm = _module(root, graph, value)
    conv_node = value.args[0] if type(norm) in _NORMS else value
    conv = _module(root, graph, conv_node) if isinstance(conv_node, fx.Node) else None
    if conv is None or not gate_module.pools_mean or not commutes_with_pool(conv):
        with graph.inserting_before(node):
            gate = graph.get_attr(str(node.target))
            return graph.call_function(pool_of, (gate, value)), value
    assert isinstance(conv_node, fx.Node)
    with graph.inserting_before(conv_node):
        layer = graph.get_attr(str(conv_node.target))
        early = graph.call_function(pooled_convolution, (layer, conv_node.args[0]))
    if conv_node is value:
        return early, value
    with graph.inserting_before(value):
        layer = graph.get_attr(str(value.target))
        both = graph.call_function(norm_and_pool, (layer, conv_node, early))
        out = graph.call_function(operator.getitem, (both, 0))
        pooled = graph.call_function(operator.getitem, (both, 1))
    inherit(out, value)
    value.replace_all_uses_with(out)
    graph.erase_node(value)
    return pooled, out


def _module(root: nn.Module, graph: fx.Graph, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if the graph calls it just once."""
    if node.op != "call_module" or sum(n.op == "call_module" and n.target == node.target for n in graph.nodes) > 1:
        return None
    return root.get_submodule(str(node.target))


def pool_of(gate: ChannelGate, x: torch.Tensor) -> torch.Tensor:
    """(N, C, *spatial) -> (N, C)."""
    return gate.pool(x)


def weights_of(gate: ChannelGate, pooled: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gate's weights, (N, C) -> (N, C, 1, ...), in the type of the map x."""
    weights = gate.gate(pooled)
    return weights.reshape(*weights.shape, *(1,) * (x.dim() - 2)).to(x.dtype)


def pooled_convolution(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """The pooled output of a 1x1 convolution from its input: (N, C_in, *spatial) -> (N, C_out)."""
    pooled = x.mean(tuple(range(2, x.dim())))
    if conv.groups == 1:
        return F.linear(pooled, conv.weight.flatten(1), conv.bias)
    return F.conv1d(pooled.unsqueeze(2), conv.weight.flatten(1).unsqueeze(2), conv.bias, groups=conv.groups).squeeze(2)


def norm_and_pool(
    norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, z: torch.Tensor, pooled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """norm(z), and its mean over space from that of z. Shapes: (N, C, *spatial), (N, C) -> the same two."""
    if not norm.training or norm.momentum is None or norm.weight is None or norm.bias is None:
        out = norm(z)
        return out, out.mean(tuple(range(2, z.dim())))
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    out, mean, inverse = torch.native_batch_norm(
        z,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        training=True,
        momentum=norm.momentum,
        eps=norm.eps,
    )
    with torch.no_grad():
        value = ((pooled - mean) * inverse * norm.weight + norm.bias).to(out.dtype)
    return out, _PoolOf.apply(out, value)


class _PoolOf(torch.autograd.Function):
    """The mean of `x` over space, whose value is known already."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        ctx.shape = x.shape
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        shape = ctx.shape
        share = gradient / shape[2:].numel()
        return share.reshape(*share.shape, *(1,) * (len(shape) - 2)).expand(shape), None
