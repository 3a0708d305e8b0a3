"""A patched model whose training step moves and keeps fewer bytes: the same parameters, values and gradients.

Attention's own traffic in a training step is mostly copies of the gated map, and ordinary autograd keeps that map for
the backward pass beside what the plain network keeps. Four rewrites of the train graph, for pure gates (`ChannelGate`):

 T1. `branch * gate`, then `+ shortcut`, in one step: the product is never written. The product's only reader, after
     identities without hooks, must be an add of two maps of one shape.
 T2. The pool before the last 1x1 convolution and its batch norm, for the forward pass:

         mean(norm(W x + b)) = (W mean(x) + b - mu) * gamma / sigma + beta

     with the batch's own mu and sigma, which the norm hands out. Backward it stays the pool of the norm's output.
     Conditions are those of `early_squeeze`, and a gate that pools by the mean. Without a norm after it, the
     convolution is pooled early in both directions.
 T3. Where the gated value is the output of a batch norm and only the gate reads it, norm, gate and add keep the norm's
     input, as the norm alone does, and no other map (`gated_norm`). The norm is torch's own, or one with nothing but
     identities behind it.
 T4. Scales of the channels after the gate (a layer scale) go into its weights (`channel_scales`): one map is kept for
     both.

What is kept besides is a gated value that nothing can be worked out from: one after no norm, or after one that is no
batch norm, without a layer scale. Gates and norms with hooks stay as they are, since a hook may change what they give.
"""

from __future__ import annotations

import copy
import operator
from typing import Any, cast

from torch import fx, nn

from ..attention.gating import ChannelGate
from ..errors import PlanError
from ..sites.reading import shaped_graph
from ..tracing.hook_tables import is_hooked
from ..tracing.injected import InjectedModule
from ..tracing.nodes import inherit
from ..tracing.parts import parts_to_change, with_parts
from .channel_scales import take_scales
from .early_squeeze import commutes_with_pool
from .gate_add import sole_add
from .identities import past_identities
from .norm_folding import is_batch_norm
from .train_steps import gate_and_add, norm_and_pool, pool_of, pooled_convolution, scale_and_add, weights_of


def optimize_training(patched: nn.Module, *, example_inputs: Any = None) -> InjectedModule:
    """What `surgery.faster.optimize_training` does with a graph; its arguments and errors."""
    parts = parts_to_change(patched)
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
        gate = inner.get_submodule(str(node.target)) if str(node.target) in modules else None
        if node.op == "call_module" and isinstance(gate, ChannelGate) and not is_hooked(gate):
            _rewrite(inner, graph, node)
    graph.lint()
    return inner.with_graph("train", graph)


def _rewrite(root: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    given = cast(fx.Node, node.args[0])
    norm = given if _is_sole_norm(root, given) else None
    value, last, scales = take_scales(root, node, may_move=norm is None)
    end = past_identities(root, last)
    join = sole_add(end)
    with graph.inserting_before(node if norm is None else norm):
        gate = graph.get_attr(str(node.target))
    if norm is None:
        gated, pooled = value, _pooled(root, graph, node, gate)
    else:
        gated, pooled, given = _normed(root, graph, norm, gate)
    with graph.inserting_before(node):
        weights = graph.call_function(weights_of, (gate, pooled, given))
    replaced, shortcut = last, None
    if join is not None:
        replaced, shortcut = join, join.args[1] if join.args[0] is end else join.args[0]
    with graph.inserting_before(replaced):
        for scale in scales:
            weights = graph.call_function(operator.mul, (weights, scale))
        new = graph.call_function(scale_and_add if norm is None else gate_and_add, (gated, weights, shortcut))
    inherit(new, replaced)
    replaced.replace_all_uses_with(new)
    for old in dict.fromkeys([*_way(last, replaced), node, *filter(None, [norm])]):
        graph.erase_node(old)


def _way(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """The nodes from `last` back to `first`, each the one reader of the next."""
    nodes = [first]
    while nodes[-1] is not last:
        nodes.extend(nodes[-1].users)
    return nodes[::-1]


def _is_sole_norm(root: nn.Module, value: fx.Node) -> bool:
    """Whether the gated value is the output of a batch norm that nothing else reads (T3)."""
    norm = _module(root, value)
    if norm is None or is_hooked(norm):
        return False
    return is_batch_norm(norm) and len(value.args) == 1 and len(value.users) == 1


def _normed(root: nn.Module, graph: fx.Graph, norm: fx.Node, gate: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
    """T3, with T2 where it holds: nodes for norm and pool together, the pooled vector, and the value."""
    z = cast(fx.Node, norm.args[0])
    with graph.inserting_before(norm):
        layer = graph.get_attr(str(norm.target))
        early = _early(root, graph, gate, z)
        both = graph.call_function(norm_and_pool, (layer, z, gate, *early))
        value, pooled = (graph.call_function(operator.getitem, (both, index)) for index in (0, 1))
    inherit(value, norm)
    return both, pooled, value


def _pooled(root: nn.Module, graph: fx.Graph, node: fx.Node, gate: fx.Node) -> fx.Node:
    """The pooled vector of a value that is kept."""
    value = cast(fx.Node, node.args[0])
    with graph.inserting_before(node):
        early = _early(root, graph, gate, value)
        return graph.call_function(pooled_convolution, early) if early else graph.call_function(pool_of, (gate, value))


def _early(root: nn.Module, graph: fx.Graph, gate: fx.Node, value: fx.Node) -> tuple[fx.Node, ...]:
    """The convolution that gives `value`, as a node, and its input, where the pool may be taken there (T2)."""
    conv = _module(root, value)
    gates = cast(ChannelGate, root.get_submodule(str(gate.target)))
    if conv is None or not gates.pools_mean or not commutes_with_pool(conv):
        return ()
    return graph.get_attr(str(value.target)), cast(fx.Node, value.args[0])


def _module(root: nn.Module, node: fx.Node) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None
