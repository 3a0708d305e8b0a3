"""What the rules found: in one graph with its nodes, and in both graphs of a trace."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..types import Sites
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


@dataclass(frozen=True)
class Located:
    """The sites of a trace, with their nodes in each graph."""

    sites: Sites
    graphs: dict[str, GraphSites]
