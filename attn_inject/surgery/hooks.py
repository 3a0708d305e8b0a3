"""The way of a gate where no forward can be rewritten: a forward hook on the module that returns the gated value."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx, nn

from ..errors import PlanError
from ..sites.found import GraphSites
from ..sites.placement import Edit, edit_for
from ..sites.reading import LocatedModel
from ..tracing.nodes import returned_by, value_of
from ..types import Insertion, block_name
from .rewrite import channels_first


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


def maker(located: LocatedModel, insertion: Insertion) -> tuple[str, tuple[int, ...] | None]:
    """(path of the module whose output is the gated value, the permutation to channels first if it needs one).

    Raises:
        PlanError: no module returns the value, or it runs elsewhere too.

    """
    places = {_place(graph, insertion) for graph in located.graphs.values()}
    if len(places) != 1:
        raise PlanError(f"{block_name(insertion.site.block)}: another module makes the gated value in train mode")
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
            f"{block_name(insertion.site.block)}: no module returns the value to gate there, or others read it too"
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
