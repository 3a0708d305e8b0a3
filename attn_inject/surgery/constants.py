"""Gates that stay what they are become factors of the layer before them: no module, no time, no parameters.

    norm: gamma' = w gamma, beta' = w beta        convolution, linear: W' = w W, b' = w b

Conditions:
 C1. The attention stands in no other module's place: a file is read back onto the original, where that would be again.
 C2. In each mode's graph every call of it reads a call of one layer that ends in a factor per channel: a convolution, a
     linear, or a norm with weights, as a module or as a function; but for permutes, its own or the model's. The axis
     that the layer has its factors on is the one that the attention sees as channels.
 C3. Nothing else reads that layer's output or its parameters, and no other name has these.
 C4. Neither the attention nor the layer has hooks: what these change comes after the layer's own numbers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..sites.operations import name_of
from ..tracing.alias import copied
from ..tracing.hook_tables import is_hooked
from ..tracing.injected import InjectedModule
from ..tracing.parts import full_path, parts_to_change, patched_parts, put_in_place, record_of
from ..tracing.trace import MODES
from ..types import Insertion, block_name
from .records import records_of
from .rewrite import edit_forward

# The axis of its output that a layer has one factor for each of: of maps the second, of rows the last.
_MAPS, _ROWS = 1, -1
_MODULES: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _MAPS),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm), _MAPS),
    **dict.fromkeys((nn.Linear, nn.LayerNorm), _ROWS),
}
# The same as functions, with the place of the weight among the arguments; the bias comes after it.
_FUNCTIONS: dict[Any, tuple[int, int]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), (_MAPS, 1)),
    F.linear: (_ROWS, 1),
    F.batch_norm: (_MAPS, 3),
    F.group_norm: (_MAPS, 2),
    F.layer_norm: (_ROWS, 2),
}
# Norms over the last axes, of which the channels have to be the only one.
_OVER_LAST = (nn.LayerNorm, F.layer_norm)
_LEFT = "remove() leaves it there"
_HOOKED = "hooks on it, or on the layer before it, may change what passes"
_NO_LAYER = "what it gates comes from no norm or convolution alone"
_OVER_MORE = "the norm before it is over more than the channels"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that can take factors: the module it belongs to, and its parameters' names; without a bias None."""

    path: str
    weight: str
    bias: str | None

    @property
    def parameters(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def layer_before(part: InjectedModule, insertion: Insertion) -> Layer:
    """The layer that can take the attention's factors.

    Raises:
        LookupError: there is none; says why.

    """
    if insertion.placement == "replace" or insertion.replaces is not None:
        raise LookupError("it stands in the place of another module")
    if any(any(_readers(part.graph_of(mode), insertion.module)) for mode in MODES):
        raise LookupError("optimize_training() has taken it to pieces: fold first, and optimise what comes back")
    ways = {mode: [_way(call) for call in _calls(part.graph_of(mode), insertion.module)] for mode in MODES}
    if is_hooked(part.get_submodule(insertion.module)):
        raise LookupError(_HOOKED)
    layers = {_layer(part, way[-1], _axis(way)) for found in ways.values() for way in found}
    if len(layers) != 1:
        raise LookupError(_NO_LAYER)
    layer = layers.pop()
    for name in layer.parameters:
        _must_be_its_own(part, name, insertion.channels)
    for mode, found in ways.items():
        ends = {way[-1] for way in found}
        readers = {reader for name in layer.parameters for reader in _readers(part.graph_of(mode), name)}
        if readers != ends or any(len(node.users) != 1 for way in found for node in way):
            raise LookupError("the layer before it is read elsewhere too")
    return layer


def with_constants(patched: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of a graph with weights of its own, in which attentions (by path) are factors (C,) of the layers before.

    What is folded is no longer in the plan; its notes say what `remove` cannot bring back.

    Raises:
        LookupError: one of C1 to C4 does not hold.

    """
    parts_to_change(patched)
    whole = copied(patched)
    done = {}
    for path, part in patched_parts(whole).items():
        plan = part.injection.plan
        chosen = [insertion for insertion in plan.insertions if full_path(path, insertion.module) in weights]
        gone = {insertion.module: weights[full_path(path, insertion.module)] for insertion in chosen}
        layers = {insertion.module: layer_before(part, insertion) for insertion in chosen}
        for module, layer in layers.items():
            _scale(part, layer, gone[module])
        made = part
        for mode in MODES:
            made = made.with_graph(mode, _without(part.graph_of(mode), gone))
        for module in gone:
            home, _, child = module.rpartition(".")
            made.get_submodule(home)._modules.pop(child)
        notes = tuple(
            f"{block_name(i.site.block)}: {i.attention} was folded into {layers[i.module].path}; {_LEFT}"
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


def warn_of_what_stays(patched: nn.Module) -> None:
    """Say, to the caller of whoever takes the attention out, what was folded and stays in the layers."""
    left = [note for _, record in records_of(patched) for note in record.plan.notes if note.endswith(_LEFT)]
    if left:
        said = f"the model without its attention is not the one that it was put into: {'; '.join(left)}"
        warnings.warn(said, UserWarning, stacklevel=3)


def _without(graph: fx.Graph, modules: Mapping[str, object]) -> fx.Graph:
    """A copy of a graph that passes the attentions by."""
    other = copy.deepcopy(graph)
    edit_forward(other, (), modules.keys())
    return other


def _calls(graph: fx.Graph, path: str) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_module" and node.target == path]


def _way(call: fx.Node) -> list[fx.Node]:
    """From what an attention's call reads back to what made that: permutes, and the first node that is none."""
    way = [call.all_input_nodes[0]]
    while _order(way[-1]) is not None:
        way.append(way[-1].all_input_nodes[0])
    return way


def _order(node: fx.Node) -> list[int] | None:
    """The order of a permute with fixed axes; None for all else."""
    if name_of(node) != "permute":
        return None
    axes: Any = node.args[1:] or (node.kwargs.get("dims"),)
    axes = axes[0] if len(axes) == 1 else axes
    if not isinstance(axes, (tuple, list)) or not all(isinstance(axis, int) for axis in axes):
        return None
    return [axis % len(axes) for axis in axes]


def _axis(way: Sequence[fx.Node]) -> int:
    """Which axis of the way's end are the channels, which an attention has as the second; the last one is `_ROWS`."""
    axis, rank = 1, None
    for node in way[:-1]:
        order = _order(node)
        assert order is not None
        axis, rank = order[axis], len(order)
    return _ROWS if rank is not None and axis == rank - 1 else axis


def _layer(part: InjectedModule, node: fx.Node, axis: int) -> Layer:
    """What a node calls, if that is a layer with its factors on this axis."""
    if node.op == "call_module":
        path, module = str(node.target), part.get_submodule(str(node.target))
        if is_hooked(module):
            raise LookupError(_HOOKED)
        if _MODULES.get(type(module)) != axis:
            raise LookupError(_NO_LAYER)
        if type(module) in _OVER_LAST and len(module.normalized_shape) != 1:  # type: ignore[arg-type]
            raise LookupError(_OVER_MORE)
        has_bias = isinstance(getattr(module, "bias", None), torch.Tensor)
        if not isinstance(getattr(module, "weight", None), torch.Tensor):
            raise LookupError("the norm before it has no weights")
        return Layer(path, f"{path}.weight", f"{path}.bias" if has_bias else None)
    found, place = _FUNCTIONS.get(node.target, (None, 0)) if node.op == "call_function" else (None, 0)
    if found != axis:
        raise LookupError(_NO_LAYER)
    if node.target in _OVER_LAST and len(_argument(node, 1, "normalized_shape")) != 1:
        raise LookupError(_OVER_MORE)
    weight, bias = (_argument(node, place + index, name) for index, name in enumerate(("weight", "bias")))
    if weight is None:
        raise LookupError("the norm before it has no weights")
    if any(isinstance(each, fx.Node) and each.op != "get_attr" for each in (weight, bias)):
        raise LookupError("the layer before it shares its weights, or computes them")
    path = str(weight.target).rpartition(".")[0] or str(weight.target)
    return Layer(path, str(weight.target), None if bias is None else str(bias.target))


def _argument(call: fx.Node, place: int, name: str) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name)


def _must_be_its_own(part: InjectedModule, name: str, channels: int) -> None:
    """Refuse what is no parameter with a row for each channel, or one that goes by several names."""
    named = dict(part.named_parameters(remove_duplicate=False))
    if sum(each is named.get(name) for each in named.values()) != 1:
        raise LookupError("the layer before it shares its weights, or computes them")
    if len(named[name]) != channels:
        raise LookupError(_NO_LAYER)


def _readers(graph: fx.Graph, name: str) -> Iterator[fx.Node]:
    """The nodes that compute with a parameter."""
    for node in graph.nodes:
        if node.op == "get_attr" and node.target == name:
            yield from node.users
        elif node.op == "call_module" and name.startswith(f"{node.target}."):
            yield node


@torch.no_grad()
def _scale(part: nn.Module, layer: Layer, weights: torch.Tensor) -> None:
    for name in layer.parameters:
        parameter = part.get_parameter(name)
        factors = weights.to(parameter.device).reshape(-1, *(1,) * (parameter.dim() - 1))
        parameter.copy_((parameter.double() * factors).to(parameter.dtype))
