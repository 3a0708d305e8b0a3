"""From sites and options to a `Plan`. Pure: nothing is edited here, and new modules get their names here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from . import attention as attentions
from .attention import Attention
from .choosing import Choices, check, listing, no_sites, selected, wanted_kinds
from .errors import AttentionError, PlanError
from .injected import InjectedModule
from .presets import preset_options
from .reading import Reading, read
from .sites.anatomy import Anatomy
from .sites.found import GraphSites
from .sites.placement import Edit, edit_for
from .types import (
    DEFAULT_KINDS,
    Existing,
    Init,
    Insertion,
    Kind,
    Placement,
    Plan,
    Preset,
    Site,
    Sites,
    Source,
)


def find_sites(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    input_size: int | Iterable[int] | None = None,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    scope: str | None = None,
) -> Sites:
    """The model's sites in execution order; `.skipped` has every other add and concat with its reason.

    Nothing is computed and the model is left as it was. A block that is run several times in one forward pass is one
    site (`Site.calls`), since its attention, like its weights, is shared.

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        input_size: (channels, *spatial) or (*spatial) of one input; guessed from the model if None.
        kinds: any of "residual", "mixed", "plain", "stage" (see `inject`).

    Raises:
        TraceError: the model cannot be traced; names the line that stopped it.

    """
    return read(model, example_inputs=example_inputs, input_size=input_size, kinds=kinds, scope=scope).located.sites


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
    """What `inject` with the same arguments would do, as a frozen, readable value. See `inject` for the arguments."""
    reading = read(
        model, example_inputs=example_inputs, input_size=input_size, kinds=wanted_kinds(kinds, existing), scope=scope
    )
    choices = Choices(
        attention, placement, include, exclude, stages, every, min_channels, init, existing, preset, name,
        stage_options or {}, options, source,
    )  # fmt: skip
    return plan_for(reading, choices)


def plan_for(reading: Reading, choices: Choices) -> Plan:
    """The plan of `choices` on a model already read.

    Raises:
        PlanError: nothing to do (with what was seen), a placement no block has, or a bad choice.
        AttentionError: an unknown attention or option, or settings impossible for a site's channels.

    """
    check(choices)
    sites = reading.located.sites
    if not sites:
        raise PlanError(no_sites(sites, reading.kinds))
    chosen = selected(sites, choices)
    if not chosen:
        raise PlanError(
            f"none of the {len(sites)} sites is left after the filters: "
            f"blocks are {listing([s.block for s in sites])}, "
            f"stages {listing(sorted({str(s.stage) for s in sites}))}"
        )
    earlier = _earlier_insertions(reading)
    chosen = [site for site in chosen if site.key not in {i.site.key for i in earlier}]
    if not chosen:
        raise PlanError("every chosen block already has attention from an earlier injection: use remove() first")
    if choices.existing != "stack":
        # With "replace", what is there is a site of kind "attention", and gets its successor in its own place.
        chosen = [site for site in chosen if site.kind == "attention" or not site.existing]
        if not chosen:
            raise PlanError("every chosen block has channel attention of its own: use existing='stack' or 'replace'")
    base = {
        "source": choices.source,
        "scope": reading.scope,
        "kinds": tuple(dict.fromkeys(site.kind for site in sites)),
        "input_shape": reading.trace.input_shape,
        "init": choices.init,
    }
    if choices.attention == "none":
        return _strip(chosen, choices, base)
    entry = attentions.resolve(choices.attention)
    attentions.check_options(entry, choices.options)
    for stage_choice in choices.stage_options.values():
        attentions.check_options(entry, stage_choice)
    insertions, refused = _insertions(reading, entry, chosen, choices)
    if not insertions:
        raise PlanError(refused[0] if refused else "nothing to do")
    factory = choices.attention if callable(choices.attention) else None
    return Plan(
        insertions=(*earlier, *insertions),
        attention=entry.name,
        notes=(
            *_stacking_note(chosen, choices),
            *dict.fromkeys(refused),
            *_cost_note(reading, entry, insertions),
        ),
        factory=factory,
        **base,  # type: ignore[arg-type]
    )


def _earlier_insertions(reading: Reading) -> tuple[Insertion, ...]:
    part = reading.model.get_submodule(reading.scope) if reading.scope else reading.model
    return part.injection.plan.insertions if isinstance(part, InjectedModule) else ()


def _strip(chosen: list[Site], choices: Choices, base: dict[str, Any]) -> Plan:
    attended = tuple(site for site in chosen if site.kind == "attention")
    if not attended:
        raise PlanError("no chosen block has channel attention that could be taken out")
    if choices.options:
        raise PlanError(f"attention 'none' takes no options, got {', '.join(choices.options)}")
    what = f"the channel attention of {len(attended)} blocks is taken out: {listing(s.block for s in attended)}"
    return Plan(insertions=(), attention="none", removals=attended, notes=(what,), **base)


def _insertions(
    reading: Reading, entry: Attention, chosen: list[Site], choices: Choices
) -> tuple[tuple[Insertion, ...], list[str]]:
    graph = next(iter(reading.located.graphs.values()))
    settings = preset_options(choices.preset, entry, reading.located.sites, choices.options, reading.trace.skeleton)
    taken: set[str] = set()
    insertions: list[Insertion] = []
    refused: list[str] = []
    adjusted: dict[str, list[str]] = {}
    for site in chosen:
        anatomy = graph.found[site.key][0]
        outcome = _edit(graph, anatomy, site, choices)
        if isinstance(outcome, str):
            refused.append(f"{site.block or '(root)'}: {outcome}")
            continue
        edit, home, replaces = outcome
        child = choices.name or settings.child_for(site) or entry.child
        module = _free_name(reading.trace.skeleton, home, child, taken, replaces)
        taken.add(module)
        options = {**choices.options, **settings.for_site(site), **choices.stage_options.get(site.stage, {})}
        if choices.placement == "replace" and edit.replaced is not None and edit.replaced.op == "call_module":
            options = {**_convolution_options(reading, edit, entry), **options}
        insertion = Insertion(
            site, module, entry.name, options, choices.placement, choices.init, edit.channels, replaces
        )
        for adjustment in _try(entry, insertion, len(site.size)):
            adjusted.setdefault(adjustment, []).append(module)
        insertions.append(insertion)
    notes = [f"{entry.name}: {what} at {listing(where, 3)}" for what, where in adjusted.items()]
    return tuple(insertions), [*refused, *notes]


def _edit(graph: GraphSites, anatomy: Anatomy, site: Site, choices: Choices) -> tuple[Edit, str, str | None] | str:
    """(edit, path of the module that the attention lives in, path of what it replaces), or why there is none."""
    edit = edit_for(graph, anatomy, choices.placement)
    if isinstance(edit, str):
        return edit
    if site.kind == "attention":
        if _is_module_of_its_own(graph, anatomy):
            return edit, _parent(site.block), site.block
        return edit, site.block, None
    replaces = str(edit.replaced.target) if edit.replaced is not None else None
    return edit, _parent(replaces) if replaces else site.block, replaces


def _is_module_of_its_own(graph: GraphSites, anatomy: Anatomy) -> bool:
    """Whether the module that computes an existing gate does nothing else, and is not a block with it written out."""
    inside = set(graph.flow.region(anatomy.gated, anatomy.fork))
    carries = graph.flow.operations.carries
    return all(node in inside for node in graph.flow.order if carries[node] and node.meta["block"] == anatomy.block)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _free_name(root: nn.Module, home: str, child: str, taken: set[str], replaces: str | None) -> str:
    """`home.child`, or the first `home.child2`, `home.child3` ... that nothing has.

    A name that stands for nothing yet is free: None, or an `Identity` that keeps the place of an attention (timm).
    """
    parent = root.get_submodule(home)
    for number in itertools.count(1):
        name = child if number == 1 else f"{child}{number}"
        path = f"{home}.{name}" if home else name
        held = getattr(parent, name, None)
        if path not in taken and (held is None or type(held) is nn.Identity or path == replaces):
            return path
    raise AssertionError("count never ends")


def _convolution_options(reading: Reading, edit: Edit, entry: Attention) -> dict[str, Any]:
    """What a module that takes a convolution's place must take over from it."""
    assert edit.replaced is not None
    conv = reading.trace.skeleton.get_submodule(str(edit.replaced.target))
    stride = max(cast("tuple[int, ...]", conv.stride))
    wanted = {"out_channels": int(cast(int, conv.out_channels)), "stride": stride}
    unfit = [key for key in wanted if key not in entry.options]
    same = stride == 1 and conv.in_channels == conv.out_channels
    if unfit and not same:
        raise PlanError(
            f"{entry.name} cannot take the place of {edit.replaced.target}: it has no {' and no '.join(unfit)} option"
        )
    return {key: value for key, value in wanted.items() if key in entry.options}


def _try(entry: Attention, insertion: Insertion, ndim: int) -> tuple[str, ...]:
    """Build the module on the meta device, so that impossible settings fail before anything is edited.

    Returns what the module had to adjust (groups that do not divide the channels).
    """
    import torch

    try:
        with torch.device("meta"):
            module = attentions.build(
                entry, insertion.channels, ndim=ndim, init=insertion.init, options=insertion.options
            )
    except AttentionError as error:
        raise AttentionError(f"{insertion.module}: {error}") from error
    inner = getattr(module, "inner", module)
    return tuple(getattr(inner, "adjustments", ()))


def _stacking_note(chosen: list[Site], choices: Choices) -> tuple[str, ...]:
    attended = [site for site in chosen if site.existing]
    if not attended or choices.existing != "stack":
        return ()
    return (
        f"{len(attended)} of {len(chosen)} blocks already have channel attention ({attended[0].existing}, ...): "
        "the new one is stacked after it",
    )


def _cost_note(reading: Reading, entry: Attention, insertions: tuple[Insertion, ...]) -> tuple[str, ...]:
    """A warning where the attention costs more parameters than the network itself (PSA before the add)."""
    import torch

    original = sum(p.numel() for p in reading.model.parameters())
    added = 0
    largest = (0, "")
    with torch.device("meta"):
        for insertion in insertions:
            if insertion.replaces is None and entry.kind != "gate":
                module = attentions.build(
                    entry,
                    insertion.channels,
                    ndim=len(insertion.site.size),
                    init=insertion.init,
                    options=insertion.options,
                )
                cost = sum(p.numel() for p in module.parameters())
                added += cost
                largest = max(largest, (cost, insertion.module))
    if added <= original:
        return ()
    return (
        f"{entry.name} adds {added / 1e6:.2f} M parameters to a network of {original / 1e6:.2f} M "
        f"({largest[0] / 1e6:.2f} M at {largest[1]} alone): placement 'replace' is how its paper uses it",
    )


def with_source(plan: Plan, source: Source | None) -> Plan:
    """The plan, saying where its model comes from."""
    return replace(plan, source=source)
