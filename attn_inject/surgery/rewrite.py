"""From a plan to an `InjectedModule`: the only file that puts attention into a graph. It decides nothing.

W1. Both graphs get the same new modules, at the same sites, once for every call of a block.
W2. A value gated for all its readers is gated right after it is made; one gated for some, right before the first of
    them, so that in-place changes in between have happened as in the original. Where a block's fork is the fork of a
    block in it too, the outer one's attention comes first: it has more readers.
W3. Channels-last values are viewed channels-first around the attention (permutes move no data).
W4. Nothing is eliminated but what an attention takes the place of: the replaced convolution, or the nodes that computed
    only the replaced gate. Modules that are no longer called are displaced: `remove` puts them back.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from ..attention.base import Attention
from ..attention.registry import attentions_of, module_for
from ..errors import PlanError
from ..sites.anatomy import Anatomy
from ..sites.found import GraphSites
from ..sites.placement import Edit, edit_for
from ..sites.reading import LocatedModel
from ..tracing.alias import alias
from ..tracing.frames import ROOT
from ..tracing.injected import InjectedModule
from ..tracing.nodes import Frame, mark_attention, set_frame, value_of
from ..types import Injection, Insertion, Plan, block_name
from .provenance import original_fingerprint, versions


def rewrite(located: LocatedModel, plan: Plan, not_kept: tuple[str, ...] = ()) -> InjectedModule:
    """Put the plan's attention into a copy of the located part that shares its weights; the model stays as it is.

    Raises:
        PlanError: the plan names a site that the model does not have, or has with other channels.

    """
    skeleton = alias(located.trace.skeleton)
    graphs = {mode: copy.deepcopy(graph) for mode, graph in located.trace.graphs.items()}
    pristine, displaced = _without_attention(located)
    called_before = _called(graphs.values())
    attentions = attentions_of(plan)
    earlier = {insertion.module for insertion in located.earlier}
    todo = [insertion for insertion in plan.insertions if insertion.module not in earlier]
    # All edits are looked up before the first is made: a plan that does not fit changes nothing.
    edits = {
        mode: [(insertion.module, list(_edits(located.graphs[mode], insertion))) for insertion in todo]
        for mode in graphs
    }
    for insertion in todo:
        install(skeleton, insertion, attentions[insertion.attention], displaced)
    for mode, graph in graphs.items():
        copied = dict(zip(located.trace.graphs[mode].nodes, graph.nodes, strict=True))
        found = located.graphs[mode]
        making = _Making(graph)
        for module, changes in sorted(
            edits[mode], key=lambda each: -max((_readers_of(c.edit) for c in each[1]), default=0)
        ):
            placeholders = [n for n in graph.nodes if n.op == "call_module" and n.target == module]
            for change in changes:
                making.apply(_copied(change.edit, copied), module, (change.anatomy.block, change.anatomy.call))
            _supersede_all(graph, placeholders)
        for site in plan.removals:
            for anatomy in found.of_plan(site):
                gate = found.existing[anatomy.gated]
                _supersede(graph, copied[gate.product], copied[gate.features])
    for path in sorted(called_before - _called(graphs.values())):
        if not any(path == taken or path.startswith(f"{taken}.") for taken in displaced):
            _displace(skeleton, path, displaced)
    injection = Injection(
        plan,
        versions(),
        fingerprint=original_fingerprint(located.model),
        not_kept=not_kept,
        guards=located.trace.guards,
        any_size=located.trace.any_size,
    )
    trace = located.trace
    return InjectedModule(skeleton, graphs, pristine, trace.constants, displaced, injection, trace.fixed_arguments)


@dataclass(frozen=True)
class _Change:
    edit: Edit
    anatomy: Anatomy


def _edits(found: GraphSites, insertion: Insertion) -> Iterator[_Change]:
    """The edit of an insertion in every call of its block."""
    for anatomy in found.of_plan(insertion.site):
        edit = edit_for(found, anatomy, insertion.placement)
        if isinstance(edit, str):
            raise PlanError(f"{block_name(insertion.site.block)}: {edit}")
        there = int(value_of(anatomy.gated).shape[anatomy.channel_axis])
        for planned, actual in ((insertion.channels, edit.channels), (insertion.site.channels, there)):
            if planned != actual:
                raise PlanError(
                    f"the plan is for {planned} channels at {block_name(insertion.site.block)}, the model has {actual}"
                )
        yield _Change(edit, anatomy)


def _without_attention(located: LocatedModel) -> tuple[dict[str, fx.Graph], dict[str, nn.Module]]:
    """(the graphs as they were before any injection, the modules that earlier ones displaced)."""
    graphs = located.trace.graphs
    if (patched := located.patched_part) is not None:
        return {mode: patched.pristine_graph_of(mode) for mode in graphs}, dict(patched.displaced)
    return dict(graphs), {}


def install(skeleton: nn.Module, insertion: Insertion, attention: Attention, displaced: dict[str, nn.Module]) -> None:
    """Build the new module in the device and dtype of what it gates, and put it into its block.

    Raises:
        PlanError: the block is not there, or has something else than a module under the new module's name.

    """
    home, _, child = insertion.module.rpartition(".")
    try:
        parent = skeleton.get_submodule(home)
    except AttributeError:
        raise PlanError(f"the plan puts {insertion.module} into {home}, which the model does not have") from None
    like = _nearest_tensor(skeleton, insertion.site.block)
    with torch.device(like.device if like is not None else "cpu"):
        module = module_for(insertion, attention)
    if like is not None:
        module = module.to(device=like.device, dtype=like.dtype)
    module.train(mode=parent.training)
    held = getattr(parent, child, None)
    if child in parent._parameters or child in parent._buffers or not isinstance(held, nn.Module | None):
        raise PlanError(f"the plan puts {insertion.module} where the model has a {type(held).__name__}")
    if held is not None:
        # What it replaces, or an `Identity` that kept its place.
        _displace(skeleton, insertion.module, displaced)
    setattr(parent, child, module)


def _nearest_tensor(skeleton: nn.Module, block: str) -> torch.Tensor | None:
    """A floating parameter (or buffer) of the block, else of the model: where and in what type the block computes."""
    for module in (skeleton.get_submodule(block), skeleton):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor
    return None


def edit_forward(graph: fx.Graph, edits: Iterable[tuple[str, Edit]], taken: Collection[str] = ()) -> None:
    """Call each attention, a path as the module sees it, in the graph of one module's own forward, of whose nodes the
    edits speak. `taken` are paths at which new modules stand that are called elsewhere.
    """
    _supersede_all(graph, [n for n in graph.nodes if n.op == "call_module" and n.target in taken])
    making = _Making(graph)
    for module, edit in sorted(edits, key=lambda each: -_readers_of(each[1])):
        placeholders = [n for n in graph.nodes if n.op == "call_module" and n.target == module]
        making.apply(edit, module, ROOT)
        _supersede_all(graph, placeholders)
    graph.lint()


def _copied(edit: Edit, copied: dict[fx.Node, fx.Node]) -> Edit:
    """The edit of a copy of its graph."""
    readers = None if edit.readers is None else tuple(copied[reader] for reader in edit.readers)
    replaced = None if edit.replaced is None else copied[edit.replaced]
    return replace(edit, value=copied[edit.value], readers=readers, replaced=replaced)


def _supersede_all(graph: fx.Graph, placeholders: Iterable[fx.Node]) -> None:
    """Pass by the calls of what had a new module's name; a replaced module's own call is gone already."""
    for node in placeholders:
        if node in graph.nodes:
            _supersede(graph, node, node.all_input_nodes[0])


def _readers_of(edit: Edit) -> int:
    """For how many readers a value is gated; 0 for all."""
    return len(edit.readers or ())


class _Making:
    """Makes the edits of one graph, those for more readers of a value before those for fewer of them."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        # What a reader has been given in the place of a value.
        self._given: dict[tuple[fx.Node, fx.Node], fx.Node] = {}

    def apply(self, edit: Edit, module: str, frame: Frame) -> None:
        graph, value = self._graph, edit.value
        if (replaced := edit.replaced) is not None:
            with graph.inserting_before(replaced):
                _, last = _call(graph, module, value, edit.channel_axis, frame)
            _supersede(graph, replaced, last)
            return
        if edit.readers is None:
            with graph.inserting_after(value):
                new, last = _call(graph, module, value, edit.channel_axis, frame)
            value.replace_all_uses_with(last, delete_user_cb=lambda user: user is not new)
            return
        order = {node: index for index, node in enumerate(graph.nodes)}
        first = min(edit.readers, key=order.__getitem__)
        value = self._given.get((edit.value, first), edit.value)
        with graph.inserting_before(first):
            _, last = _call(graph, module, value, edit.channel_axis, frame)
        for reader in edit.readers:
            reader.replace_input_with(value, last)
            self._given[edit.value, reader] = last


def _call(graph: fx.Graph, module: str, value: fx.Node, channel_axis: int, frame: Frame) -> tuple[fx.Node, fx.Node]:
    """Call the attention on `value`, channels first; returns the first and the last new node."""
    first = last = call = graph.create_node("call_module", module, (value,))
    if channel_axis != 1:
        order, back = channels_first(value_of(value).dim(), channel_axis)
        first = graph.create_node("call_method", "permute", (value, *order))
        call.prepend(first)
        call.args = (first,)
        last = graph.create_node("call_method", "permute", (call, *back))
        call.append(last)
    for node in (first, call, last):
        set_frame(node, frame)
        mark_attention(node, module)
    return first, last


def channels_first(rank: int, channel_axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the permutation that brings the channels to axis 1, the one that takes them back).

    >>> channels_first(4, 3)
    ((0, 3, 1, 2), (0, 2, 3, 1))
    """
    order = [axis for axis in range(rank) if axis != channel_axis]
    order.insert(1, channel_axis)
    return tuple(order), tuple(order.index(axis) for axis in range(rank))


def _supersede(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Let `new` stand where `old` stood, and erase `old` and what computed only it."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    doomed = [old]
    gone: set[fx.Node] = set()
    while doomed:
        node = doomed.pop()
        if node in gone or node.users or node is new or node.op in ("placeholder", "output"):
            continue
        sources = list(node.all_input_nodes)
        graph.erase_node(node)
        gone.add(node)
        doomed += [source for source in sources if source is not new]


def _called(graphs: Iterable[fx.Graph]) -> set[str]:
    return {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}


def _displace(skeleton: nn.Module, path: str, displaced: dict[str, nn.Module]) -> None:
    """Take a module that is no longer called out of the tree."""
    home, _, child = path.rpartition(".")
    parent = skeleton.get_submodule(home)
    displaced[path] = parent._modules.pop(child)  # type: ignore[assignment]
