"""Attention in a model of its own class: the blocks that hold a site run a rewritten `forward`.

`inject` gives a graph module, which runs everywhere but no longer has the class's methods. `attach` gives a model of
the same class, sharing the weights, whose blocks hold the attention (`layer1.0.se`) and call it: so children can be
sliced, wrapped and replaced, and `forward_features` and every other method see it too.

Who calls each attention is found in `blocks.py` and decided in `ways.py`; `forwards.py` writes the code, and what comes
out is held against what `inject` gives (`likeness.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..attention.registry import attentions_of
from ..errors import AttnInjectError, PlanError, RewriteError, TraceError
from ..planning.choices import Choices, explaining_choices
from ..planning.plan import locate_and_plan, read_for
from ..sites.reading import LocatedModel, submodule
from ..tracing.alias import alias, copied
from ..tracing.checkpoints import checkpoint_losses
from ..tracing.compiled import as_written, compiled_in, compiled_losses
from ..tracing.injected import InjectedModule
from ..tracing.parts import full_path
from ..tracing.prepare import parameter_hooks
from ..tracing.regions import ordinary_mode
from ..tracing.rewritten import Passing, writing_of
from ..tracing.turns import turn_losses
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
    Verification,
    block_name,
)
from .attachment import Attachment, attachments_of, keep_attachments
from .blocks import Blocks
from .forwards import write_forwards
from .learning import learning
from .likeness import likeness
from .other_ways import other_ways
from .own_names import must_leave_room
from .provenance import fingerprint, versions
from .rewrite import install, rewrite
from .surroundings import must_run_around
from .ways import ways_of
from .wrong_traces import wrong_trace


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
    copy: bool = False,
    **options: Any,
) -> nn.Module:
    """A copy of `model` of the same class, sharing its weights, with attention in its blocks.

    Each block that holds a site becomes an instance of a subclass of its own class, whose `forward` calls the
    attention: code that can be read, made from the block's graph by the edit that `inject` makes of the model's. The
    state dict has the keys that `inject` gives, and the outputs are the same to the bit. `detach` gives the classes
    back.

    >>> import inspect
    >>> from attn_inject import attach
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> attached = attach(model, "se", reduction=4)
    >>> type(attached) is type(model), attached.layer1[0].se
    (True, SE(
      (fc1): Linear(in_features=16, out_features=4, bias=False)
      (fc2): Linear(in_features=4, out_features=16, bias=False)
    ))
    >>> [line.strip() for line in inspect.getsource(attached.layer1[0].forward).splitlines() if "self.se" in line]
    ['out = self.se(out)']

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        (choices)
        copy: whether the result has weights of its own, so that training it leaves `model` as it is. What no copy can
        be made of (a lock, an open file) is shared in any case.

    Raises:
        TraceError, PlanError, AttentionError: what cannot be done, and what to do instead. A site that no module's
            code sees is left out with a note in the plan.
        RewriteError: the result does not give what `inject` gives.

    """
    choices = Choices.of_call(locals())
    return attach_as_chosen(copied(model) if copy else model, choices, example_inputs=example_inputs)


def attach_as_chosen(model: nn.Module, choices: Choices, *, example_inputs: Any = None) -> nn.Module:
    """`attach` with its arguments as one value."""

    def read(no_graph: TraceError | None) -> tuple[LocatedModel, Plan]:
        return locate_and_plan(model, choices, example_inputs=example_inputs, may_record=True, no_graph=no_graph)

    return _attach_read(read)


def attach_as_planned(model: nn.Module, plan: Plan, example_inputs: Any = None) -> nn.Module:
    """`attach` as a plan says, on what it was made for unless other inputs are given.

    Raises:
        TraceError, PlanError, AttentionError, RewriteError: as `attach`; what it leaves out its own plan says.

    """

    def read(no_graph: TraceError | None) -> tuple[LocatedModel, Plan]:
        return read_for(model, plan, example_inputs, may_record=True, no_graph=no_graph), plan

    return _attach_read(read)


def _attach_read(read: Callable[[TraceError | None], tuple[LocatedModel, Plan]]) -> nn.Module:
    """`attach_plan` on what `read` gives, which is told why a graph that there is will not do, where it will not."""
    located, plan = read(None)
    try:
        return _attached(located, plan)
    except RewriteError:
        if located.trace.recorded or located.earlier or (wrong := wrong_trace(located, plan)) is None:
            raise
    # The graph is not what the model's code does, which one run shows all the same.
    return _attached(*read(wrong))


def _attached(located: LocatedModel, plan: Plan) -> nn.Module:
    try:
        return attach_plan(located, plan)
    except RewriteError as error:
        if not (located.trace.recorded or located.trace.notes):
            raise
        try:
            return attach_plan(located, plan, keeping=True)
        except AttnInjectError:
            raise error from None


@ordinary_mode()
@as_written()
def attach_plan(located: LocatedModel, plan: Plan, *, keeping: bool = False) -> nn.Module:
    """`attach` for a model that has been read and planned; with `keeping`, code that notes something runs as it is."""
    if any(isinstance(module, InjectedModule) for module in located.model.modules()):
        raise PlanError("inject() patched this model before: use inject for its other parts too, or remove() it first")
    if any(isinstance(writing_of(module), Passing) for module in located.part.modules()):
        raise PlanError(
            "some blocks run around attention that was attached before: detach() it, and attach all in one call"
        )
    earlier = {insertion.module for insertion in located.earlier}
    todo = [insertion for insertion in plan.insertions if insertion.module not in earlier]
    if plan.removals or not todo:
        raise PlanError("attach only puts attention in: use inject to take it out")
    must_leave_room(located.model)
    blocks = Blocks(located)
    ways = ways_of(located, blocks, todo, keeping=keeping)
    if len(ways.left_out) == len(todo):
        hint = "" if located.trace.recorded else "; use inject"
        raise PlanError(f"{next(iter(ways.left_out.values()))}: attach cannot reach it{hint}")
    plan = replace(
        plan,
        insertions=tuple(insertion for insertion in plan.insertions if insertion.module not in ways.left_out),
        notes=(*plan.notes, *dict.fromkeys(f"left out: {reason}" for reason in ways.left_out.values())),
    )
    graph = None if located.trace.recorded else rewrite(located, plan)
    outer = alias(located.model)
    part = submodule(outer, located.scope)
    new = [insertion for insertion in todo if insertion.module not in ways.left_out]
    kept = _put_in(part, plan, new, graph)
    wanted, chosen = other_ways(located, blocks, ways, todo)
    constants = write_forwards(part, blocks, ways, kept, wanted)
    like = likeness(located.part, located.trace.inputs, part, new, graph)
    if like.check is not None and not like.check.passed:
        raise RewriteError(f"what attach made is not what was planned: {like.check.figure}")
    if located.scope:
        must_run_around(located.model, outer)
    learns = None if graph is None else learning(graph, new)
    if learns is not None and not learns.passed:
        raise RewriteError(f"verification of {learns.name} failed: {learns.figure}")
    checks = tuple(check for check in (like.check, learns) if check is not None)
    traces = [blocks.graphs(path) for path in ways.paths]
    injection = Injection(
        plan,
        versions(),
        Verification(checks) if checks else None,
        not_kept=(
            *located.without,
            *ways.reasons,
            *chosen,
            *(f"a comparison with what inject gives: {reason}" for reason in like.untried),
            *([f"a proof that the new modules learn: {like.unproven}"] if like.unproven else []),
            *turn_losses(in_turn=any(trace.in_turn for trace in traces)),
            *parameter_hooks(located.part),
            *compiled_losses(compiled_in(located.part, wrapped=False)),
            *checkpoint_losses(
                block_name(path) for path, trace in zip(ways.paths, traces, strict=True) if trace.checkpoints
            ),
        ),
        guards=tuple(dict.fromkeys(guard for trace in traces for guard in trace.guards)),
        any_size=all(trace.any_size for trace in traces),
    )
    _note(outer, located, injection, kept, constants)
    return outer


def _note(
    outer: nn.Module,
    located: LocatedModel,
    injection: Injection,
    kept: Mapping[str, nn.Module | None],
    constants: Sequence[str],
) -> None:
    """Let the model know what was attached to it, with what was attached before to this part and to others."""
    scope = located.scope or ""
    earlier = attachments_of(located.model)
    others, same = (
        [one for one in earlier if ((one.injection.plan.scope or "") == scope) is wanted] for wanted in (False, True)
    )
    original = next((one.injection.fingerprint for one in earlier), None) or fingerprint(located.model)
    places = {full_path(scope, path): module for path, module in kept.items()}
    for one in same:
        places.update(one.kept)
    names = [*(name for one in same for name in one.constants), *(full_path(scope, name) for name in constants)]
    orders = dict(order for one in same for order in one.orders)
    for path in places:
        home = path.rpartition(".")[0]
        orders.setdefault(home, tuple(submodule(located.model, home)._modules))
    attachment = Attachment(
        replace(injection, fingerprint=original), located.trace.inputs, places, tuple(names), tuple(orders.items())
    )
    keep_attachments(outer, (*others, attachment))


def _put_in(
    part: nn.Module, plan: Plan, todo: Sequence[Insertion], graph: InjectedModule | None
) -> dict[str, nn.Module | None]:
    """Put the new modules into their blocks, the graph's own where there is one; what stood in their places."""
    kept: dict[str, nn.Module | None] = {}
    attentions = attentions_of(plan)
    for insertion in todo:
        home, _, child = insertion.module.rpartition(".")
        holder = part.get_submodule(home)
        if hasattr(holder, child):
            kept[insertion.module] = getattr(holder, child)
        if graph is None:
            install(part, insertion, attentions[insertion.attention], {})
        else:
            setattr(holder, child, graph.get_submodule(insertion.module))
    for path in graph.displaced if graph is not None else ():
        if path not in kept:
            home, _, child = path.rpartition(".")
            kept[path] = part.get_submodule(home)._modules.pop(child)
    return kept
