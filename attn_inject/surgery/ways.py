"""How each attention of a plan is called where the model keeps its classes: in a rewritten forward, or around the own.

Y1. A spot (`blocks.py`) whose module has a graph without guards is rewritten.
Y2. Where the module has none, or one for certain sizes only, the forward of the block that holds the attention runs as
    it is, and what a child of it returns (`makers.py`) passes through the attention meanwhile. So it does, where that
    is asked for, if its code notes something on itself, which a rewritten forward would not.
Y3. What neither reaches is rewritten with its guards, or left out; code that notes something is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import PlanError
from ..sites.reading import LocatedModel
from ..types import Insertion, block_name
from .blocks import Blocks, Spot, runs_instead
from .containers import goes_over_children
from .makers import maker

KEEPS_SOMETHING = "its code keeps something from one call to the next"


@dataclass(frozen=True)
class Ways:
    """The spots to rewrite; by the new module's path, (the child in its block, the order of axes) to pass through; why
    that is so; and by the same what is left out, with the reason.
    """

    spots: tuple[Spot, ...] = ()
    makers: Mapping[str, tuple[str, tuple[int, ...] | None]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """The modules whose forward is rewritten."""
        return list(dict.fromkeys(spot.path for spot in self.spots))


def ways_of(located: LocatedModel, blocks: Blocks, insertions: Sequence[Insertion], *, keeping: bool = False) -> Ways:
    """The way of each insertion; with `keeping`, code that notes something on itself runs as it is."""
    spots: list[Spot] = []
    makers: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    reasons: list[str] = []
    left_out: dict[str, str] = {}
    for insertion in insertions:
        spot = blocks.spot(insertion)
        block = block_name(insertion.site.block)
        home, _, name = insertion.module.rpartition(".")
        holder = located.part.get_submodule(home)
        if isinstance(spot, Spot) and spot.path != home and goes_over_children(holder) and not blocks.has_graphs(home):
            left_out[insertion.module] = f"{block}: its own code goes over its children, and would run the attention"
            continue
        notes = isinstance(spot, Spot) and keeping and blocks.graphs(spot.path).notes
        if isinstance(spot, Spot) and not notes and not blocks.graphs(spot.path).guards:
            spots.append(spot)
            continue
        try:
            child, order = maker(located, insertion)
            if hasattr(holder, name) or goes_over_children(holder):
                raise PlanError(f"{block}: its own code may run what is called {name!r}")
            if other := runs_instead(holder, is_whole=not home):
                raise PlanError(f"{block} {other}")
        except PlanError as error:
            if notes:
                left_out[insertion.module] = f"{block}: {KEEPS_SOMETHING}, and a forward of ours would not ({error})"
            elif isinstance(spot, Spot):
                spots.append(spot)
            else:
                left_out[insertion.module] = spot if spot.startswith(f"{block} ") else f"{block}: {spot}"
            continue
        makers[insertion.module] = child, order
        why = KEEPS_SOMETHING if notes else _decides(blocks, spot.path) if isinstance(spot, Spot) else spot
        reasons.append(
            f"{block}: its own forward runs, since {why}; compilers and scripts do not follow the attention around it"
        )
    homes = {module.rpartition(".")[0] for module in makers}
    for spot in [spot for spot in spots if spot.path in homes]:
        # A forward is either rewritten or run as it is.
        spots.remove(spot)
        left_out[spot.insertion.module] = f"{block_name(spot.path)}: {_decides(blocks, spot.path)}"
    # A block with several sites says it once.
    return Ways(tuple(spots), makers, tuple(dict.fromkeys(reasons)), left_out)


def _decides(blocks: Blocks, path: str) -> str:
    guards = blocks.graphs(path).guards
    if not guards:
        return "its own forward runs, for attention elsewhere in it"
    return f"its code decides on what it is given ({guards[0].line})"
