"""From a plan to an `InjectedModule`: the only file that puts attention into a graph. It decides nothing.

W1. Both graphs get the same new modules, at the same sites, once for every call of a block.
W2. A value gated for all its readers is gated right after it is made; one gated for some, right before the first of
    them, so that in-place changes in between have happened as in the original.
W3. Channels-last values are viewed channels-first around the attention (permutes move no data).
W4. Nothing is eliminated but what an attention takes the place of: the replaced convolution, or the nodes that computed
    only the replaced gate. Modules that are no longer called are set aside, for `remove` to put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from . import attention as attentions
from .aliasing import alias
from .errors import PlanError
from .fingerprint import fingerprint
from .injected import InjectedModule
from .reading import Reading, submodule
from .sites.anatomy import Anatomy
from .sites.found import GraphSites
from .sites.placement import Edit, edit_for
from .types import Injection, Insertion, Plan, Site
from .versions import versions


def rewrite(reading: Reading, plan: Plan, not_kept: tuple[str, ...] = ()) -> nn.Module:
    """Put the plan's attention into a copy that shares the model's weights; the reading stays as it is.

    Returns the `InjectedModule`, or, where the reading has a scope, the model around it with an `injection` record.

    Raises:
        PlanError: the plan names a site that the model does not have, or has with other channels.

    """
    skeleton = alias(reading.trace.skeleton)
    graphs = {mode: copy.deepcopy(graph) for mode, graph in reading.trace.graphs.items()}
    pristine, aside = _without_attention(reading)
    called_before = _called(graphs.values())
    earlier = _earlier_modules(reading)
    todo = [insertion for insertion in plan.insertions if insertion.module not in earlier]
    # All edits are looked up before the first is made: a plan that does not fit changes nothing.
    edits = {
        mode: [(insertion.module, list(_edits(reading.located.graphs[mode], insertion))) for insertion in todo]
        for mode in graphs
    }
    for insertion in todo:
        install(skeleton, insertion, plan, aside)
    for mode, graph in graphs.items():
        twins = dict(zip(reading.trace.graphs[mode].nodes, graph.nodes, strict=True))
        found = reading.located.graphs[mode]
        for module, changes in edits[mode]:
            placeholders = [n for n in graph.nodes if n.op == "call_module" and n.target == module]
            for change in changes:
                _apply(graph, change, module, twins)
            for node in placeholders:
                # Another module has this name now. A replaced module's own call is gone already.
                if node in graph.nodes:
                    _supersede(graph, node, node.all_input_nodes[0])
        for site in plan.removals:
            for anatomy in _anatomies(found, site):
                attended = found.attended[anatomy.gated]
                _supersede(graph, twins[attended.product], twins[attended.features])
    for path in sorted(called_before - _called(graphs.values())):
        if not any(path == taken or path.startswith(f"{taken}.") for taken in aside):
            _set_aside(skeleton, path, aside)
    injection = Injection(plan, versions(), None, fingerprint(reading.model), not_kept)
    patched = InjectedModule(skeleton, graphs, pristine, reading.trace.constants, aside, injection)
    return _in_scope(reading, patched)


@dataclass(frozen=True)
class _Change:
    edit: Edit
    anatomy: Anatomy


def _edits(found: GraphSites, insertion: Insertion) -> Iterator[_Change]:
    """The edit of an insertion in every call of its block."""
    for anatomy in _anatomies(found, insertion.site):
        edit = edit_for(found, anatomy, insertion.placement)
        if isinstance(edit, str):
            raise PlanError(f"{insertion.site.block or '(root)'}: {edit}")
        there = int(anatomy.gated.meta["val"].shape[anatomy.channel_axis])
        for planned, actual in ((insertion.channels, edit.channels), (insertion.site.channels, there)):
            if planned != actual:
                raise PlanError(
                    f"the plan is for {planned} channels at {insertion.site.block or '(root)'}, the model has {actual}"
                )
        yield _Change(edit, anatomy)


def _anatomies(found: GraphSites, site: Site) -> list[Anatomy]:
    try:
        return found.found[site.key]
    except KeyError:
        raise PlanError(f"the model has no {site.kind} site {site.index} in block {site.block or '(root)'}") from None


def _without_attention(reading: Reading) -> tuple[dict[str, fx.Graph], dict[str, nn.Module]]:
    """(the graphs as they were before any injection, the modules that earlier ones set aside)."""
    part = submodule(reading.model, reading.scope)
    if isinstance(part, InjectedModule):
        modes = reading.trace.graphs
        return {mode: copy.deepcopy(part.pristine_graph_of(mode)) for mode in modes}, dict(part._inj_aside)
    return {mode: copy.deepcopy(graph) for mode, graph in reading.trace.graphs.items()}, {}


def _earlier_modules(reading: Reading) -> set[str]:
    """The paths of what an earlier injection put in, if the model is a patched one."""
    part = submodule(reading.model, reading.scope)
    return {i.module for i in part.injection.plan.insertions} if isinstance(part, InjectedModule) else set()


def install(skeleton: nn.Module, insertion: Insertion, plan: Plan, aside: dict[str, nn.Module]) -> None:
    """Build the new module in the device and dtype of what it gates, and put it into its block."""
    home, _, child = insertion.module.rpartition(".")
    try:
        parent = skeleton.get_submodule(home)
    except AttributeError:
        raise PlanError(f"the plan puts {insertion.module} into {home}, which the model does not have") from None
    like = _nearest_tensor(skeleton, insertion.site.block)
    entry = attentions.resolve(
        plan.factory if plan.factory is not None and insertion.attention == plan.attention else insertion.attention
    )
    with torch.device(like.device if like is not None else "cpu"):
        module = attentions.build(
            entry, insertion.channels, ndim=len(insertion.site.size), init=insertion.init, options=insertion.options
        )
    if like is not None:
        module = module.to(device=like.device, dtype=like.dtype)
    module.train(parent.training)
    held = getattr(parent, child, None)
    if child in parent._parameters or child in parent._buffers or not isinstance(held, nn.Module | None):
        raise PlanError(f"the plan puts {insertion.module} where the model has a {type(held).__name__}")
    if held is not None:
        # What it replaces, or an `Identity` that kept its place.
        _set_aside(skeleton, insertion.module, aside)
    setattr(parent, child, module)


def _nearest_tensor(skeleton: nn.Module, block: str) -> torch.Tensor | None:
    """A floating parameter (or buffer) of the block, else of the model: where and in what type the block computes."""
    for module in (skeleton.get_submodule(block), skeleton):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor
    return None


def _apply(graph: fx.Graph, change: _Change, module: str, twins: dict[fx.Node, fx.Node]) -> None:
    edit = change.edit
    value = twins[edit.value]
    frame: dict[str, object] = {"block": change.anatomy.block, "call": change.anatomy.call}
    if edit.replaced is not None:
        replaced = twins[edit.replaced]
        with graph.inserting_before(replaced):
            _, last = _call(graph, module, value, edit.channel_axis, frame)
        _supersede(graph, replaced, last)
        return
    if edit.readers is None:
        with graph.inserting_after(value):
            new, last = _call(graph, module, value, edit.channel_axis, frame)
        value.replace_all_uses_with(last, delete_user_cb=lambda user: user is not new)
        return
    readers = [twins[reader] for reader in edit.readers]
    order = {node: index for index, node in enumerate(graph.nodes)}
    with graph.inserting_before(min(readers, key=order.__getitem__)):
        _, last = _call(graph, module, value, edit.channel_axis, frame)
    for reader in readers:
        reader.replace_input_with(value, last)


def _call(
    graph: fx.Graph, module: str, value: fx.Node, channel_axis: int, frame: dict[str, object]
) -> tuple[fx.Node, fx.Node]:
    """Call the attention on `value`, channels first; returns the first and the last new node."""
    rank = value.meta["val"].dim()
    meta = {**frame, "attention": module}
    if channel_axis == 1:
        call = graph.call_module(module, (value,))
        call.meta.update(meta)
        return call, call
    order = [axis for axis in range(rank) if axis != channel_axis]
    order.insert(1, channel_axis)
    back = [order.index(axis) for axis in range(rank)]
    first = graph.call_method("permute", (value, *order))
    call = graph.create_node("call_module", module, (first,))
    first.append(call)
    last = graph.create_node("call_method", "permute", (call, *back))
    call.append(last)
    for node in (first, call, last):
        node.meta.update(meta)
    return first, last


def _supersede(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Let `new` stand where `old` stood, and erase `old` and what computed only it."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    doomed = [old]
    while doomed:
        node = doomed.pop()
        if node.users or node is new or node.op in ("placeholder", "output"):
            continue
        sources = list(node.all_input_nodes)
        graph.erase_node(node)
        doomed += [source for source in sources if source is not new]


def _called(graphs: Iterable[fx.Graph]) -> set[str]:
    return {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}


def _set_aside(skeleton: nn.Module, path: str, aside: dict[str, nn.Module]) -> None:
    """Take a module that is no longer called out of the tree."""
    home, _, child = path.rpartition(".")
    parent = skeleton.get_submodule(home)
    aside[path] = parent._modules.pop(child)  # type: ignore[assignment]


def _in_scope(reading: Reading, patched: InjectedModule) -> nn.Module:
    if not reading.scope:
        return patched
    outer = alias(reading.model)
    home, _, child = reading.scope.rpartition(".")
    setattr(outer.get_submodule(home), child, patched)
    vars(outer)["injection"] = patched.injection
    return outer
