"""Which child of a block returns the value to gate: the way of a gate where the block's forward cannot be rewritten."""

from __future__ import annotations

from torch import fx

from ..errors import PlanError
from ..sites.found import GraphSites
from ..sites.placement import Edit, edit_for
from ..sites.reading import LocatedModel
from ..tracing.frames import Calls
from ..tracing.nodes import returned_by, value_of
from ..types import Insertion, block_name
from .rewrite import channels_first


def maker(located: LocatedModel, insertion: Insertion, home: str | None = None) -> tuple[str, tuple[int, ...] | None]:
    """(path of the child whose output is the gated value, the permutation to channels first if it needs one).

    The path is that in the module at `home`, or in the block that holds the attention.

    Raises:
        PlanError: no child returns the value, or it runs elsewhere too.

    """
    block = block_name(insertion.site.block)
    places = {_place(graph, insertion, located.trace.calls[mode]) for mode, graph in located.graphs.items()}
    if len(places) != 1:
        raise PlanError(f"{block}: another module makes the gated value in train mode")
    path, order = places.pop()
    home = insertion.module.rpartition(".")[0] if home is None else home
    within = path.removeprefix(f"{home}.") if home else path
    if home and within == path:
        raise PlanError(f"{block}: {path}, which makes the gated value, lies outside of {home}")
    return within, order


def _place(graph: GraphSites, insertion: Insertion, calls: Calls) -> tuple[str, tuple[int, ...] | None]:
    edits: list[Edit] = []
    for anatomy in graph.of_plan(insertion.site):
        edit = edit_for(graph, anatomy, insertion.placement)
        if isinstance(edit, str):
            raise PlanError(f"{block_name(insertion.site.block)}: {edit}")
        edits.append(edit)
    path = _returned_by(edits, calls)
    if path is None:
        raise PlanError(
            f"{block_name(insertion.site.block)}: no module returns the value to gate there, or others read it too"
        )
    first = edits[0]
    if first.channel_axis == 1:
        return path, None
    return path, channels_first(value_of(first.value).dim(), first.channel_axis)[0]


def _returned_by(edits: list[Edit], calls: Calls) -> str | None:
    """The innermost module whose outputs are exactly the edits' values, for all who read them.

    A module that also runs elsewhere (one activation for a whole network) would gate there too.
    """
    for edit in edits:
        if edit.replaced is not None or (edit.readers is not None and set(edit.value.users) != set(edit.readers)):
            return None
    values = {edit.value for edit in edits}
    first = edits[0].value
    paths = [str(first.target)] if first.op == "call_module" else []
    paths += [path for path, call in returned_by(first) if path and not calls[path, call].is_bare]
    return next((path for path in paths if _outputs(first.graph, path) == values), None)


def _outputs(graph: fx.Graph, path: str) -> set[fx.Node]:
    """What the calls of the module at `path` return."""
    return {
        node
        for node in graph.nodes
        if (node.op == "call_module" and node.target == path) or any(path == other for other, _ in returned_by(node))
    }
