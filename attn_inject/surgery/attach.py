"""Attention in a model of its own class: the blocks that hold a site run a rewritten `forward`.

`inject` gives a graph module, which runs everywhere but no longer has the class's methods. `attach` gives a model of
the same class, sharing the weights, whose blocks hold the attention (`layer1.0.se`) and call it: so children can be
sliced, wrapped and replaced, and `forward_features` and every other method see it too.

A1. Whose `forward` calls the attention is `blocks.py`'s to say. It is rewritten with its children as single calls.
A2. A plain Sequential whose own the attention is runs it as one more element, right after what it gates.
A3. Where a block has no graph, or one for certain sizes only, its own code runs, and what a child of it returns passes
    through the attention meanwhile. The record says so.
A4. What comes out gives what `inject` gives, to the bit, with gates that do something (`likeness.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from ..attention.registry import attentions_of
from ..errors import PlanError, RewriteError, first_line
from ..planning.choices import Choices, explaining_choices
from ..planning.plan import locate_and_plan
from ..sites.reading import LocatedModel, submodule
from ..tracing.alias import alias, copied
from ..tracing.injected import InjectedModule
from ..tracing.parts import full_path
from ..tracing.regions import ordinary_mode
from ..tracing.rewritten import HOLDER, Passing, Writing, own_class, restore_forward, rewrite_forward, writing_of
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
from .blocks import Blocks, Spot
from .likeness import likeness
from .makers import maker
from .provenance import fingerprint, versions
from .rewrite import edit_forward, install, rewrite


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
        copy: whether the result has weights of its own, so that training it leaves `model` as it is.

    Raises:
        TraceError, PlanError, AttentionError: what cannot be done, and what to do instead. A site that no module's
            code sees is left out with a note in the plan.
        RewriteError: the result does not give what `inject` gives.

    """
    choices = Choices.of_call(locals())
    return attach_as_chosen(copied(model) if copy else model, choices, example_inputs=example_inputs)


def attach_as_chosen(model: nn.Module, choices: Choices, *, example_inputs: Any = None) -> nn.Module:
    """`attach` with its arguments as one value."""
    return attach_plan(*locate_and_plan(model, choices, example_inputs=example_inputs, may_record=True))


@dataclass(frozen=True)
class _Ways:
    """How each attention of a plan is called: in a rewritten forward, or around the class's own, with the reasons."""

    spots: tuple[Spot, ...] = ()
    makers: Mapping[str, tuple[str, tuple[int, ...] | None]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


@ordinary_mode()
def attach_plan(located: LocatedModel, plan: Plan, *, check: bool = True) -> nn.Module:
    """`attach` for a model that has been read and planned."""
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
    blocks = Blocks(located)
    ways = _ways(located, blocks, todo)
    if len(ways.left_out) == len(todo):
        raise PlanError(f"{next(iter(ways.left_out.values()))}: attach cannot reach it; use inject")
    plan = replace(
        plan,
        insertions=tuple(insertion for insertion in plan.insertions if insertion.module not in ways.left_out),
        notes=(*plan.notes, *(f"left out: {reason}" for reason in ways.left_out.values())),
    )
    todo = [insertion for insertion in todo if insertion.module not in ways.left_out]
    graph = None if located.trace.recorded else rewrite(located, plan)
    outer = alias(located.model)
    part = submodule(outer, located.scope)
    holders = {insertion.module: part.get_submodule(insertion.module.rpartition(".")[0]) for insertion in todo}
    kept = _put_in(part, plan, todo, graph)
    constants = _rewrite(part, blocks, ways.spots, holders, kept)
    _pass_through(holders, ways.makers)
    like = likeness(located.part, located.trace.inputs, part, plan, graph) if check else None
    if like is not None and not like.passed:
        raise RewriteError(f"what attach made is not what was planned: {like.figure}; use inject")
    injection = Injection(
        plan,
        versions(),
        None if like is None else Verification((like,)),
        not_kept=ways.reasons,
        guards=tuple(dict.fromkeys(guard for path in _paths(ways.spots) for guard in blocks.graphs(path).guards)),
        any_size=all(blocks.graphs(path).any_size for path in _paths(ways.spots)),
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
    attachment = Attachment(replace(injection, fingerprint=original), located.trace.inputs, places, tuple(names))
    keep_attachments(outer, (*others, attachment))


def _paths(spots: Iterable[Spot]) -> list[str]:
    return list(dict.fromkeys(spot.path for spot in spots))


def _ways(located: LocatedModel, blocks: Blocks, todo: Sequence[Insertion]) -> _Ways:
    spots: list[Spot] = []
    makers: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    reasons: list[str] = []
    left_out: dict[str, str] = {}
    for insertion in todo:
        spot = blocks.spot(insertion)
        if isinstance(spot, Spot) and not blocks.graphs(spot.path).guards:
            spots.append(spot)
            continue
        block = block_name(insertion.site.block)
        try:
            child, order = maker(located, insertion)
            home, _, name = insertion.module.rpartition(".")
            if hasattr(located.part.get_submodule(home), name):
                raise PlanError(f"{block}: its own code may run what is called {name!r}")
        except PlanError:
            if isinstance(spot, Spot):
                spots.append(spot)
            else:
                left_out[insertion.module] = f"{block}: {spot}"
            continue
        makers[insertion.module] = child, order
        why = "its code decides on sizes" if isinstance(spot, Spot) else spot
        reasons.append(
            f"{block}: its own forward runs, since {why}; compilers and scripts do not follow the attention around it"
        )
    homes = {module.rpartition(".")[0] for module in makers}
    for spot in [spot for spot in spots if spot.path in homes]:
        # A forward is either rewritten or run as it is.
        spots.remove(spot)
        left_out[spot.insertion.module] = f"{block_name(spot.path)}: its code decides on sizes"
    return _Ways(tuple(spots), makers, tuple(reasons), left_out)


def _pass_through(holders: Mapping[str, nn.Module], makers: Mapping[str, tuple[str, tuple[int, ...] | None]]) -> None:
    """A3, for the attentions in `makers`."""
    by_holder: dict[nn.Module, list[tuple[str, str, tuple[int, ...] | None]]] = {}
    for module, (child, order) in makers.items():
        by_holder.setdefault(holders[module], []).append((child, module.rpartition(".")[2], order))
    for holder, gates in by_holder.items():
        rewrite_forward(holder, Passing(own_class(holder), tuple(gates)), None)


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


def _rewrite(
    part: nn.Module,
    blocks: Blocks,
    spots: Sequence[Spot],
    holders: Mapping[str, nn.Module],
    kept: Mapping[str, nn.Module | None],
) -> list[str]:
    """Let each spot's module call its attention; the paths of the constants that this takes.

    `kept` is what stood in the places of new modules.
    """
    constants: list[str] = []
    taken: dict[str, list[str]] = {}
    for spot in spots:
        home, _, child = spot.insertion.module.rpartition(".")
        if spot.path != home and spot.insertion.module in kept:
            taken.setdefault(home, []).append(child)
    writings: dict[tuple[type, str], Writing] = {}
    # Whose own code knows a name under which a new module stands now, which another module's code calls.
    knowing = [path for path in taken if path not in _paths(spots)]
    for path in [*_paths(spots), *knowing]:
        here = [spot for spot in spots if spot.path == path]
        module = part.get_submodule(path)
        if _is_plain_sequence(module) and all(holders[spot.insertion.module] is module for spot in here):
            for spot in here:
                _follow(module, blocks.edits(spot)["eval"].value, spot.insertion)
            continue
        trace = blocks.graphs(path)
        outside = {holders[spot.insertion.module] for spot in here} - set(module.modules())
        if len(outside) > 1:
            raise PlanError(f"{block_name(path)} would call attention of several blocks: use inject")
        # All are looked up before the first is made.
        edits = [(_seen_from(spot.insertion, module, holders), blocks.edits(spot)) for spot in here]
        for mode, graph in trace.graphs.items():
            edit_forward(graph, [(name, by_mode[mode]) for name, by_mode in edits], taken.get(path, ()))
        for name, tensor in trace.constants.items():
            module.register_buffer(name, tensor.detach(), persistent=False)
            constants.append(f"{path}.{name}" if path else name)
        writing = Writing(own_class(module), trace.graphs, trace.fixed_arguments)
        # Blocks that do the same have one class.
        writing = writings.setdefault((writing.base, writing.source), writing) if not trace.constants else writing
        try:
            rewrite_forward(module, writing, next(iter(outside), None))
        except TypeError as error:
            raise PlanError(f"{block_name(path)}: its class allows no other forward ({first_line(error)})") from error
    return constants


def _seen_from(insertion: Insertion, module: nn.Module, holders: Mapping[str, nn.Module]) -> str:
    """The path of a new module as the code of `module` has it."""
    holder, child = holders[insertion.module], insertion.module.rpartition(".")[2]
    if holder is module:
        return child
    inside = {inner: name for name, inner in module.named_modules()}
    return f"{inside[holder]}.{child}" if holder in inside else f"{HOLDER}.{child}"


def _is_plain_sequence(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and own_class(module) is type(module)


def _follow(sequence: nn.Module, value: fx.Node, insertion: Insertion) -> None:
    """A2: let the new module follow the element that gives the value."""
    child = insertion.module.rpartition(".")[2]
    element = str(value.target).partition(".")[0]
    new = sequence._modules.pop(child)
    order = list(sequence._modules.items())
    at = 1 + next(index for index, (name, _) in enumerate(order) if name == element)
    sequence._modules.clear()
    sequence._modules.update([*order[:at], (child, new), *order[at:]])


def detach(model: nn.Module) -> nn.Module:
    """The model without the attention that `attach` put in, in one call or several: a copy of the same class, with
    blocks of their own classes, sharing the weights.

    >>> import torch
    >>> from attn_inject import attach, detach
    >>> from attn_inject.zoo.cifar import models
    >>> model, x = models()["resnet20"]().eval(), torch.randn(1, 3, 32, 32)
    >>> torch.equal(detach(attach(model, "eca"))(x), model(x))
    True

    Raises:
        PlanError: nothing was attached to it.

    """
    attachments = attachments_of(model)
    if not attachments:
        raise PlanError(f"nothing was attached to this {type(model).__name__}: remove() is for what inject() gave")
    bare = alias(model)
    keep_attachments(bare, ())
    for module in bare.modules():
        restore_forward(module)
    for attachment in reversed(attachments):
        scope = attachment.injection.plan.scope or ""
        for insertion in attachment.injection.plan.insertions:
            home, _, child = full_path(scope, insertion.module).rpartition(".")
            delattr(bare.get_submodule(home), child)
        for path in attachment.constants:
            home, _, name = path.rpartition(".")
            delattr(bare.get_submodule(home), name)
        for path, held in attachment.kept.items():
            home, _, child = path.rpartition(".")
            setattr(bare.get_submodule(home), child, held)
    return bare
