"""From sites and choices to a `Plan`. Pure: nothing is edited here, and new modules get their names here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from ..attention.base import Attention
from ..attention.gating import unmixed
from ..attention.registry import resolve
from ..errors import AttentionError, PlanError, TraceError, must_be
from ..sites.placement import Edit
from ..sites.reading import LocatedModel, read
from ..tracing.shapes import BATCH
from ..types import (
    DEFAULT_KINDS,
    Existing,
    Init,
    Insertion,
    Kind,
    Placement,
    Plan,
    Preset,
    Site,
    Source,
    block_name,
)
from .blind import blind_note
from .choices import Choices, explaining_choices, listing, no_sites, selected
from .homes import free_name, place_of
from .notes import (
    adjustment_notes,
    cost_note,
    idle_options_note,
    recording_note,
    stacking_note,
    unread_note,
    unrun_note,
)
from .presets import PresetSettings, preset_settings
from .trials import Trials


@explaining_choices
def make_plan(
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
) -> Plan:
    """What `inject` with the same arguments would do, as a frozen, readable value.

    >>> from attn_inject import make_plan
    >>> from attn_inject.zoo.cifar import models
    >>> plan = make_plan(models()["resnet20"](), "eca", stages=2)
    >>> [(insertion.module, insertion.channels) for insertion in plan.insertions]
    [('layer3.0.eca', 64), ('layer3.1.eca', 64), ('layer3.2.eca', 64)]

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        (choices)

    Raises:
        TraceError: the model cannot be traced.
        PlanError: nothing to do (with what was seen), a placement no block has, or a bad choice.
        AttentionError: an unknown attention or option, or settings impossible for a site's channels.

    """
    return locate_and_plan(model, Choices.of_call(locals()), example_inputs=example_inputs)[1]


def locate_and_plan(
    model: nn.Module,
    choices: Choices,
    *,
    example_inputs: Any = None,
    may_record: bool = False,
    no_graph: TraceError | None = None,
) -> tuple[LocatedModel, Plan]:
    """Read a model as the choices want it read (`read` says how else), and plan what they ask for."""
    located = read(
        model,
        example_inputs=example_inputs,
        may_record=may_record,
        no_graph=no_graph,
        input_size=choices.input_size,
        kinds=choices.wanted_kinds,
        scope=choices.scope,
    )
    return located, plan_for(located, choices)


def read_for(
    model: nn.Module,
    plan: Plan,
    example_inputs: Any = None,
    *,
    may_record: bool = False,
    no_graph: TraceError | None = None,
) -> LocatedModel:
    """The model as it was read when the plan was made, unless other inputs are given; `read` has the rest."""
    must_be("plan", plan, Plan, "what make_plan() gives", PlanError)
    shape = None if example_inputs is not None else plan.input_shape
    return read(
        model,
        example_inputs=example_inputs,
        input_size=None if shape is None else shape[1:],
        batch=BATCH if shape is None else shape[0],
        kinds=plan.kinds,
        scope=plan.scope,
        may_record=may_record,
        no_graph=no_graph,
    )


def plan_for(located: LocatedModel, choices: Choices) -> Plan:
    """The plan of `choices` on a model already read; errors are those of `make_plan`."""
    choices.validate()
    chosen = _chosen(located, choices)
    if choices.attention == "none":
        return _removal(located, chosen, choices)
    attention, settled = resolve(choices.attention).settled(choices.options)
    choices = replace(choices, options=settled)
    for options in (choices.options, *(choices.stage_options or {}).values()):
        attention.check_options(options)
    insertions, notes = _insertions(located, attention, chosen, choices)
    called = next(iter(located.trace.calls.values()), {})
    return Plan(
        insertions=(*located.earlier, *insertions),
        attention=attention.name,
        init=choices.init,
        source=choices.source,
        scope=located.scope,
        kinds=_kinds(located),
        input_shape=located.trace.input_shape,
        notes=(
            *recording_note(located.sites),
            *unrun_note(located.part, located.sites, {path for path, _ in called}),
            *unread_note(located.sites),
            *stacking_note(chosen, choices),
            *idle_options_note(chosen, choices),
            *notes,
        ),
        factory=choices.attention if callable(choices.attention) else None,
    )


def _chosen(located: LocatedModel, choices: Choices) -> list[Site]:
    """The sites that get an attention, or lose one; PlanError, with what was seen, where there are none."""
    sites = located.sites
    if not sites:
        raise PlanError(no_sites(sites, located.kinds))
    chosen = selected(sites, choices)
    if not chosen:
        raise PlanError(
            f"none of the {len(sites)} sites is left after the filters: "
            f"blocks are {listing(s.block for s in sites)}, "
            f"stages {listing(sorted({str(s.stage) for s in sites}))}"
        )
    taken = {insertion.site.key for insertion in located.earlier}
    chosen = [site for site in chosen if site.key not in taken]
    if not chosen:
        raise PlanError("every chosen block already has attention from an earlier injection: use remove() first")
    if choices.existing != "stack":
        # With "replace", what is there is a site of kind "attention", and gets its successor in its own place.
        chosen = [site for site in chosen if site.kind == "attention" or not site.existing]
        if not chosen:
            raise PlanError(
                "every chosen block has channel attention of its own: use existing='stack' or existing='replace'"
            )
    return chosen


def _kinds(located: LocatedModel) -> tuple[Kind, ...]:
    return tuple(dict.fromkeys(site.kind for site in located.sites))


def _removal(located: LocatedModel, chosen: list[Site], choices: Choices) -> Plan:
    """The plan that takes the blocks' own attention out and puts nothing in."""
    removals = tuple(site for site in chosen if site.kind == "attention")
    if not removals:
        raise PlanError("no chosen block has channel attention that could be taken out")
    if choices.options:
        raise PlanError(f"attention 'none' takes no options, got {', '.join(choices.options)}")
    return Plan(
        insertions=(),
        attention="none",
        init=choices.init,
        removals=removals,
        source=choices.source,
        scope=located.scope,
        kinds=_kinds(located),
        input_shape=located.trace.input_shape,
        notes=(f"the channel attention of {len(removals)} blocks is taken out: {listing(s.block for s in removals)}",),
    )


def _insertions(
    located: LocatedModel, attention: Attention, chosen: list[Site], choices: Choices
) -> tuple[list[Insertion], list[str]]:
    """(one insertion for each chosen site that has room for it, what a reader must know about them)."""
    graph = next(iter(located.graphs.values()))
    root = located.trace.skeleton
    settings = preset_settings(choices.preset, attention, located.sites, choices.options, root)
    made: dict[str, tuple[Insertion, nn.Module]] = {}
    edits: list[tuple[Insertion, Edit]] = []
    refused: list[str] = []
    trials = Trials(located.model, attention)
    for site in chosen:
        place = place_of(graph, site, choices)
        if isinstance(place, str):
            refused.append(f"{block_name(site.block)}: {place}")
            continue
        edit, home, replaces = place
        child = choices.name or settings.child_for(site) or attention.child
        insertion = Insertion(
            site=site,
            module=free_name(root, home, child, made, replaces),
            attention=attention.name,
            options=_options(root, attention, settings, site, edit, choices),
            placement=choices.placement,
            init=choices.init,
            channels=edit.channels,
            replaces=replaces,
        )
        made[insertion.module] = insertion, trials.module(insertion, edit)
        edits.append((insertion, edit))
    if not made:
        raise PlanError(refused[0])
    pairs = list(made.values())
    _check_met(pairs)
    notes = [*dict.fromkeys(refused), *adjustment_notes(attention, pairs), *cost_note(located.model, attention, pairs)]
    return [insertion for insertion, _ in pairs], [*notes, *blind_note(graph.flow, attention, edits)]


def _options(
    root: nn.Module, attention: Attention, settings: PresetSettings, site: Site, edit: Edit, choices: Choices
) -> dict[str, Any]:
    """The new module's keyword arguments: those of a stage before the preset's, and these before the general ones."""
    options = {**choices.options, **settings.for_site(site), **(choices.stage_options or {}).get(site.stage, {})}
    if choices.placement == "replace" and edit.replaced is not None and edit.replaced.op == "call_module":
        return {**_convolution_options(root, edit.replaced.target, attention), **options}
    return options


def _convolution_options(root: nn.Module, path: Any, attention: Attention) -> dict[str, Any]:
    """What a module that takes a convolution's place must take over from it: any that has these options can."""
    conv = root.get_submodule(path)
    strides = cast("tuple[int, ...]", conv.stride)
    # A number where all axes have the same, for attentions that take no more than that.
    stride = strides[0] if len(set(strides)) == 1 else strides
    wanted: dict[str, Any] = {"out_channels": int(cast(int, conv.out_channels)), "stride": stride}
    unfit = [key for key in wanted if key not in attention.options]
    same = stride == 1 and conv.in_channels == conv.out_channels
    if unfit and not same:
        raise PlanError(f"{attention.name} cannot take the place of {path}: it has no {' and no '.join(unfit)} option")
    return {key: value for key, value in wanted.items() if key in attention.options}


def _check_met(made: list[tuple[Insertion, nn.Module]]) -> None:
    """Refuse a setting that was fitted everywhere: nobody gets what they asked for. One that some sites meet is noted.

    Raises:
        AttentionError: names the widest site, which is the easiest to please.

    """
    unmet = [getattr(unmixed(module), "unmet", "") for _, module in made]
    if all(unmet):
        (widest, _), sentence = max(zip(made, unmet, strict=True), key=lambda each: each[0][0].channels)
        raise AttentionError(f"{widest.module}: {sentence}")
