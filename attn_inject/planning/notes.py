"""What a plan tells its reader beside the sites: what was fitted, what is stacked, what costs more than the network."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ..attention.base import Attention
from ..attention.gating import unmixed
from ..sites.reasons import NOT_TRAINED, TRAIN_DIFFERS
from ..types import Insertion, Site, Sites, block_name
from .choices import Choices


def adjustment_notes(attention: Attention, made: list[tuple[Insertion, nn.Module]]) -> list[str]:
    """What modules had to adjust (groups that do not divide the channels), at how many of the sites, and where."""
    places: dict[str, list[str]] = {}
    for insertion, module in made:
        for adjustment in getattr(unmixed(module), "adjustments", ()):
            places.setdefault(adjustment, []).append(insertion.module)
    return [
        f"{attention.name}: {len(where)} of {len(made)} sites {what} ({_first(where)})"
        for what, where in places.items()
    ]


def _first(places: list[str], limit: int = 3) -> str:
    return ", ".join(places[:limit]) + (", ..." if len(places) > limit else "")


def recording_note(sites: Sites) -> list[str]:
    """That the sites are those of one run of the model, and why."""
    return [f"the sites are those of one run: {sites.recorded}"] if sites.recorded else []


def unrun_note(part: nn.Module, sites: Sites, called: Collection[str]) -> list[str]:
    """The modules of the sites' classes that did not run in the one run that `sites` are of: its code chose others."""
    if not sites.recorded:
        return []
    modules = dict(part.named_modules())
    kinds = {type(modules[site.block]) for site in sites if site.block}
    idle = [path for path, module in modules.items() if type(module) in kinds and path not in called]
    return [f"without attention, since they did not run in that run: {_first(idle)}"] if idle else []


def unread_note(sites: Sites) -> list[str]:
    """The blocks in which no site is looked for (R12), that are blocks in eval mode alone, or that nothing trains."""
    unread = [block_name(skipped.block) for skipped in sites.skipped if skipped.operation == "function"]
    differing, untrained = (
        [block_name(skipped.block) for skipped in sites.skipped if skipped.reason == reason]
        for reason in (TRAIN_DIFFERS, NOT_TRAINED)
    )
    notes = {
        "not looked into, since a function runs it by itself": unread,
        "left out, since the model computes something else there in train mode": differing,
        "left out, since no gradient comes back to them (no_grad, detach or indices)": untrained,
    }
    # A block that runs several times is left out each time.
    return [f"{note}: {_first(list(dict.fromkeys(blocks)))}" for note, blocks in notes.items() if blocks]


def stacking_note(chosen: list[Site], choices: Choices) -> list[str]:
    """That the new attention comes after what some of the chosen blocks have already."""
    attended = [site for site in chosen if site.existing]
    if not attended or choices.existing != "stack":
        return []
    return [
        f"{len(attended)} of {len(chosen)} blocks already have channel attention ({attended[0].existing}, ...): "
        "the new one is stacked after it",
    ]


def idle_options_note(chosen: list[Site], choices: Choices) -> list[str]:
    """The stages that options were given for, and that have none of the chosen blocks."""
    there = {site.stage for site in chosen}
    idle = sorted((choices.stage_options or {}).keys() - there)
    return [f"the options for stage {', '.join(map(str, idle))} do nothing: no chosen block is there"] if idle else []


def cost_note(model: nn.Module, attention: Attention, made: list[tuple[Insertion, nn.Module]]) -> list[str]:
    """A warning where the attention costs more parameters than the network itself (PSA before the add).

    One that can change the number of channels is meant to take a convolution's place.
    """
    original = sum(p.numel() for p in model.parameters())
    costs = {
        insertion.module: sum(p.numel() for p in module.parameters())
        for insertion, module in made
        if insertion.replaces is None and attention.kind != "gate"
    }
    added = sum(costs.values())
    if added <= original:
        return []
    way_out = ": placement 'replace' is how its paper uses it" if attention.fits_convolutions else ""
    largest = max(costs, key=lambda path: (costs[path], path))
    return [
        f"{attention.name} adds {added / 1e6:.2f} M parameters to a network of {original / 1e6:.2f} M "
        f"({costs[largest] / 1e6:.2f} M at {largest} alone){way_out}",
    ]
