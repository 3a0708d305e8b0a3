"""Gates that stay what they are become factors of the layer before them: no module, no time, no parameters.

    norm: gamma' = w gamma, beta' = w beta        convolution, linear: W' = w W, b' = w b

Conditions:
 C1. The attention stands in no other module's place: a file is read back onto the original, where that would be again.
 C2. In each mode's graph every call of it reads a call of one layer that ends in a factor per channel: a convolution, a
     linear, or a norm with weights; but for the permutes of its own.
 C3. Nothing else reads that layer, and no other module has its parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx, nn

from ..tracing.alias import copied
from ..tracing.injected import InjectedModule
from ..tracing.nodes import is_of_attention
from ..tracing.parts import full_path, patched_parts, put_in_place, record_of
from ..tracing.trace import MODES
from ..types import Insertion, block_name
from .rewrite import edit_forward

_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm),
)


def layer_before(part: InjectedModule, insertion: Insertion) -> str:
    """The path of the layer that can take the attention's factors.

    Raises:
        LookupError: there is none; says why.

    """
    if insertion.placement == "replace" or insertion.replaces is not None:
        raise LookupError("it stands in the place of another module")
    layers = {path for mode in MODES for path in _read_by(part.graph_of(mode), insertion.module)}
    if len(layers) != 1 or type(layer := part.get_submodule(path := layers.pop())) not in _LAYERS:
        raise LookupError("what it gates comes from no norm or convolution alone")
    if layer.weight is None:
        raise LookupError("the norm before it has no weights")
    names = [name for name, p in part.named_parameters(remove_duplicate=False) if p is layer.weight]
    if len(names) != 1 or nn.utils.parametrize.is_parametrized(layer):
        raise LookupError("the layer before it shares its weights, or computes them")
    for mode in MODES:
        if not _is_read_by_attention_only(part.graph_of(mode), path, insertion.module):
            raise LookupError("the layer before it is read elsewhere too")
    return path


def with_constants(patched: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of a graph with weights of its own, in which attentions (by path) are factors (C,) of the layers before.

    What is folded is no longer in the plan; its notes say what `remove` cannot bring back.

    Raises:
        LookupError: one of C1 to C3 does not hold.

    """
    whole = copied(patched)
    done = {}
    for path, part in patched_parts(whole).items():
        plan = part.injection.plan
        chosen = [insertion for insertion in plan.insertions if full_path(path, insertion.module) in weights]
        gone = {insertion.module: weights[full_path(path, insertion.module)] for insertion in chosen}
        layers = {insertion.module: layer_before(part, insertion) for insertion in chosen}
        for module, layer in layers.items():
            _scale(part.get_submodule(layer), gone[module])
        made = part
        for mode in MODES:
            made = made.with_graph(mode, _without(part.graph_of(mode), gone))
        for module in gone:
            home, _, child = module.rpartition(".")
            made.get_submodule(home)._modules.pop(child)
        notes = tuple(
            f"{block_name(i.site.block)}: {i.attention} was folded into {layers[i.module]}; remove() leaves it there"
            for i in chosen
        )
        kept = tuple(insertion for insertion in plan.insertions if insertion.module not in gone)
        new = replace(plan, insertions=kept, notes=(*plan.notes, *notes))
        made.injection = replace(part.injection, plan=new, verification=None)
        done[path] = made
    result = put_in_place(whole, done)
    if "" not in done:
        vars(result)["injection"] = record_of(result)
    return result


def _without(graph: fx.Graph, modules: Mapping[str, object]) -> fx.Graph:
    """A copy of a graph that passes the attentions by."""
    other = copy.deepcopy(graph)
    edit_forward(other, (), modules.keys())
    return other


def _source(call: fx.Node) -> fx.Node:
    """What an attention's call reads, before permutes of its own."""
    node = call.all_input_nodes[0]
    while node.op == "call_method" and is_of_attention(node):
        node = node.all_input_nodes[0]
    return node


def _calls(graph: fx.Graph, path: str) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_module" and node.target == path]


def _read_by(graph: fx.Graph, module: str) -> set[str]:
    sources = [_source(call) for call in _calls(graph, module)]
    return {str(node.target) if node.op == "call_module" else "" for node in sources}


def _is_read_by_attention_only(graph: fx.Graph, layer: str, module: str) -> bool:
    sources = {_source(call) for call in _calls(graph, module)}
    return set(_calls(graph, layer)) == sources and all(
        len(node.users) == 1 and is_of_attention(next(iter(node.users))) for node in sources
    )


@torch.no_grad()
def _scale(layer: nn.Module, weights: torch.Tensor) -> None:
    for parameter in (layer.weight, layer.bias):
        if isinstance(parameter, torch.Tensor):
            factors = weights.to(parameter.device).reshape(-1, *(1,) * (parameter.dim() - 1))
            parameter.copy_((parameter.double() * factors).to(parameter.dtype))
