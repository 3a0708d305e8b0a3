"""Attention in a model of its own class: no graph, but forward hooks in the module tree.

`inject` gives a graph module, which runs everywhere but no longer has the class's methods. `attach` gives a model of
the same class, sharing the weights, whose blocks hold the attention (`layer1.0.se`) and apply it when the module that
makes the gated value returns: so `forward_features` and every other method see it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import fx, nn

from ..attention.registry import attentions_of
from ..errors import PlanError, TraceError
from ..planning.choices import Choices, explaining_choices
from ..planning.plan import locate_and_plan
from ..sites.found import GraphSites
from ..sites.placement import Edit, edit_for
from ..sites.reading import LocatedModel, submodule
from ..tracing.alias import alias
from ..tracing.explain import SizeError
from ..tracing.injected import InjectedModule
from ..tracing.nodes import returned_by, value_of
from ..tracing.parts import full_path
from ..tracing.recording import record
from ..tracing.regions import ordinary_mode
from ..tracing.trace import trace
from ..types import (
    DEFAULT_KINDS,
    Existing,
    Init,
    Injection,
    Insertion,
    Kind,
    Placement,
    Plan,
    Preset,
    Source,
    block_name,
)
from .provenance import fingerprint, versions
from .rewrite import channels_first, install


class Gate:
    """A forward hook that passes a module's output through a block's attention. Copies and pickles with the model."""

    def __init__(self, holder: nn.Module, child: str, order: tuple[int, ...] | None) -> None:
        self.holder = holder
        self.child = child
        self.order = order

    def __call__(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        attention = getattr(self.holder, self.child)
        if self.order is None:
            return cast(torch.Tensor, attention(output))
        back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return cast(torch.Tensor, attention(output.permute(self.order)).permute(back))


@explaining_choices
def attach(
    model: nn.Module,
    attention: str | type | Callable[..., Any],
    *,
    example_inputs: Any = None,
    input_size: int | Iterable[int] | None = None,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    placement: Placement = "standard",
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    stages: int | Sequence[int] | None = None,
    scope: str | None = None,
    init: Init = "paper",
    existing: Existing = "stack",
    preset: Preset | None = None,
    name: str | None = None,
    every: int = 1,
    min_channels: int = 0,
    stage_options: Mapping[int, Mapping[str, Any]] | None = None,
    source: Source | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of `model` of the same class, sharing its weights, with attention in its blocks.

    The state dict has the keys that `inject` gives. `detach` takes the attention out again.

    >>> from attn_inject import attach
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> attached = attach(model, "se", reduction=4)
    >>> type(attached) is type(model), attached.layer1[0].se
    (True, SE(
      (fc1): Linear(in_features=16, out_features=4, bias=False)
      (fc2): Linear(in_features=4, out_features=16, bias=False)
    ))

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        (choices)

    Raises:
        PlanError: beside what `inject` raises, a gated value that no module returns, or that the block's own code reads
            too: such a block needs `inject`.

    """
    choices = Choices.of_call(locals())
    return attach_plan(*locate_and_plan(model, choices, example_inputs=example_inputs, may_record=True))


@ordinary_mode()
def attach_plan(located: LocatedModel, plan: Plan) -> nn.Module:
    """`attach` for a model that has been read and planned."""
    if any(isinstance(module, InjectedModule) for module in located.model.modules()):
        raise PlanError("inject() patched this model before: use inject for its other parts too, or remove() it first")
    makers = [(insertion, _maker(located, insertion)) for insertion in plan.insertions]
    if plan.removals or not makers:
        raise PlanError("attach only puts attention in: use inject to take it out")
    outer = alias(located.model)
    part = submodule(outer, located.scope)
    attentions = attentions_of(plan)
    kept_places: dict[str, nn.Module | None] = {}
    for insertion in plan.insertions:
        home, _, child = insertion.module.rpartition(".")
        holder = part.get_submodule(home)
        if hasattr(holder, child):
            kept_places[insertion.module] = getattr(holder, child)
        install(part, insertion, attentions[insertion.attention], {})
    own = _run_by_the_class(part, [insertion.module for insertion in plan.insertions], located)
    for insertion, (path, order) in makers:
        home, _, child = insertion.module.rpartition(".")
        if own.get(insertion.module) is None:
            part.get_submodule(path).register_forward_hook(Gate(part.get_submodule(home), child, order))
        elif own[insertion.module] != path:
            mend = (
                "give the new modules another name with name="
                if insertion.module in kept_places
                else "it runs every module that it holds; use inject"
            )
            raise PlanError(
                f"the code of block {block_name(insertion.site.block)} runs its own {child!r} at another place: {mend}"
            )
    others = _records(located.model)
    vars(outer)["injection"] = Injection(plan, versions(), None, fingerprint(located.model), others=others)
    places = {full_path(located.scope or "", path): module for path, module in kept_places.items()}
    vars(outer)["_attached_places"] = {**vars(outer).get("_attached_places", {}), **places}
    return outer


def _records(model: nn.Module) -> tuple[Injection, ...]:
    """What was attached to a model, one call after the other."""
    record = vars(model).get("injection")
    return (*record.others, replace(record, others=())) if isinstance(record, Injection) else ()


def _run_by_the_class(part: nn.Module, new: Sequence[str], located: LocatedModel) -> dict[str, str]:
    """For new modules that the model's own code runs: whose output it feeds them.

    timm's ResNet blocks, for one, run `self.se` where it is not None, and a Sequential runs all that it holds; a hook
    would gate a second time.
    """
    if located.trace.recorded:
        graph = record(part, located.trace.inputs, TraceError(located.trace.recorded), whole=new).graphs["eval"]
        return _fed(graph, new)
    try:
        graph = trace(part, inputs=located.trace.inputs, modes=("eval",), whole=new).graphs["eval"]
    except SizeError as error:
        if error.node.target not in new:
            raise
        # It is given what it cannot take.
        return {str(error.node.target): ""}
    return _fed(graph, new)


def _fed(graph: fx.Graph, new: Sequence[str]) -> dict[str, str]:
    """Which of the new modules the graph runs, and whose output it feeds them."""
    return {
        str(node.target): str(getattr(node.args[0], "target", "")) if node.args else ""
        for node in graph.nodes
        if node.op == "call_module" and node.target in new
    }


def detach(model: nn.Module) -> nn.Module:
    """The model without the attention that `attach` put in, in one call or several: a copy of the same class, sharing
    the weights.

    >>> import torch
    >>> from attn_inject import attach, detach
    >>> from attn_inject.zoo.cifar import models
    >>> model, x = models()["resnet20"]().eval(), torch.randn(1, 3, 32, 32)
    >>> torch.equal(detach(attach(model, "eca"))(x), model(x))
    True

    Raises:
        PlanError: nothing was attached to it.

    """
    records = _records(model)
    if not records or isinstance(model, fx.GraphModule):
        raise PlanError(f"nothing was attached to this {type(model).__name__}: remove() is for what inject() gave")
    bare = alias(model)
    places: dict[str, nn.Module | None] = vars(bare).pop("_attached_places", {})
    del vars(bare)["injection"]
    for module in bare.modules():
        for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, Gate)]:
            del module._forward_hooks[key]
    for path in [full_path(r.plan.scope or "", made.module) for r in reversed(records) for made in r.plan.insertions]:
        home, _, child = path.rpartition(".")
        delattr(bare.get_submodule(home), child)
        if path in places:
            setattr(bare.get_submodule(home), child, places[path])
    return bare


def _maker(located: LocatedModel, insertion: Insertion) -> tuple[str, tuple[int, ...] | None]:
    """(path of the module whose output is the gated value, the permutation to channels first if it needs one)."""
    places = {_place(graph, insertion) for graph in located.graphs.values()}
    if len(places) != 1:
        raise PlanError(f"{insertion.module}: another module makes the gated value in train mode; use inject")
    return places.pop()


def _place(graph: GraphSites, insertion: Insertion) -> tuple[str, tuple[int, ...] | None]:
    edits: list[Edit] = []
    for anatomy in graph.of_plan(insertion.site):
        edit = edit_for(graph, anatomy, insertion.placement)
        if isinstance(edit, str):
            raise PlanError(f"{block_name(insertion.site.block)}: {edit}")
        edits.append(edit)
    path = _returned_by(edits)
    if path is None:
        raise PlanError(
            f"{block_name(insertion.site.block)}: no module returns the value to gate there, or others read it too: "
            "attach cannot reach it; use inject"
        )
    first = edits[0]
    if first.channel_axis == 1:
        return path, None
    return path, channels_first(value_of(first.value).dim(), first.channel_axis)[0]


def _returned_by(edits: list[Edit]) -> str | None:
    """The innermost module whose outputs are exactly the edits' values, for all who read them.

    A module that also runs elsewhere (one activation for a whole network) would gate there too.
    """
    for edit in edits:
        if edit.replaced is not None or (edit.readers is not None and set(edit.value.users) != set(edit.readers)):
            return None
    values = {edit.value for edit in edits}
    first = edits[0].value
    paths = [str(first.target)] if first.op == "call_module" else []
    paths += [path for path, _ in returned_by(first) if path]
    return next((path for path in paths if _outputs(first.graph, path) == values), None)


def _outputs(graph: fx.Graph, path: str) -> set[fx.Node]:
    """What the calls of the module at `path` return."""
    return {
        node
        for node in graph.nodes
        if (node.op == "call_module" and node.target == path) or any(path == other for other, _ in returned_by(node))
    }
