"""What the rules found: in one graph with its nodes, and in both graphs of a trace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ..errors import PlanError
from ..tracing.nodes import block_of, frame_of, owner_of, value_of
from ..types import Site, Sites, block_name
from .anatomy import Anatomy, Refusal
from .existing import ExistingGate
from .flow import Flow

Key = tuple[str, str, int]


@dataclass(frozen=True)
class GraphSites:
    """What the rules found in one graph: for each site's key its anatomy in every call of the block.

    `axes` is the channel axis of every value, None where it is unknown.
    """

    flow: Flow
    anatomies: dict[Key, list[Anatomy]]
    refusals: list[Refusal]
    existing: dict[fx.Node, ExistingGate]
    axes: dict[fx.Node, int | None]

    def of_plan(self, site: Site) -> list[Anatomy]:
        """The anatomies of a plan's site, one for each call of its block.

        A site that the rules took once and refuse now, or count as its caller's, is found where it stood: files outlive
        changes of the rules.

        Raises:
            PlanError: there is none.

        """
        if site.key in self.anatomies:
            return self.anatomies[site.key]
        stood: dict[int, list[Anatomy]] = {}
        for refusal in self.refusals:
            if owner_of(refusal.node)[0] == site.block and (once := self._once(refusal, site)) is not None:
                stood.setdefault(once.call, []).append(once)
        for anatomy in (one for calls in self.anatomies.values() for one in calls if one.kind == site.kind):
            if block_of(anatomy.join) == site.block != anatomy.block:
                stood.setdefault(frame_of(anatomy.join)[1], []).append(anatomy)
        if not stood:
            # Code that draws which of its blocks to run has others another time.
            raise PlanError(f"the model has no {site.kind} site {site.index} in block {block_name(site.block)}")
        return [those[min(site.index, len(those) - 1)] for those in stood.values()]

    def _once(self, refusal: Refusal, site: Site) -> Anatomy | None:
        """The refused add or concat as the site, if it can be that."""
        axis = self.axes.get(refusal.node)
        once = refusal.site
        if site.kind == "mixed" and refusal.operation == "concat" and axis is not None:
            once = Anatomy("mixed", refusal.node, refusal.node, axis)
        if once is None or once.kind != site.kind:
            return None
        value, axis = value_of(once.gated), once.channel_axis
        return once if isinstance(value, torch.Tensor) and value.shape[axis] == site.channels else None


@dataclass(frozen=True)
class Located:
    """The sites of a trace, with their nodes in each graph."""

    sites: Sites
    graphs: dict[str, GraphSites]
