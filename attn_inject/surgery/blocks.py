"""In whose `forward` an attention is called, and where in it: an edit of the model's graph seen from one module.

B1. The module is the block that holds the site, or, where the gated value lives inside a child of it, that child: the
    outermost from there inward that sees the value, and all that shall read it gated.
B2. A module sees what its own code makes, what its children give back, and what it is given.
B3. It is gated in all its calls, or it is not the one: a module that also runs elsewhere would gate there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from ..errors import AttnInjectError
from ..sites.placement import Edit, edit_for
from ..sites.reading import LocatedModel
from ..tracing.alias import has_own_forward
from ..tracing.bare import home_of_own_call
from ..tracing.calls import inputs_of_call
from ..tracing.explain import CodeError
from ..tracing.inputs import Inputs
from ..tracing.nodes import Frame
from ..tracing.shapes import trace_at_a_size
from ..tracing.trace import Trace
from ..types import Insertion, block_name
from .inside import Key, Seen, View


@dataclass(frozen=True)
class Spot:
    """Where an attention is called: in the forward of the module at `path`, at the same place of it in every call."""

    insertion: Insertion
    path: str
    seen: Mapping[str, Seen]


class Blocks:
    """A located model's modules by what their own code sees."""

    def __init__(self, located: LocatedModel) -> None:
        self.located = located
        self._views = {mode: View(located.trace, mode) for mode in located.graphs}
        self._traces: dict[str, Trace | str] = {}

    def spot(self, insertion: Insertion) -> Spot | str:
        """Where the attention of an insertion is called, or why nobody's forward can."""
        edits: dict[str, list[tuple[Frame, Edit]]] = {}
        for mode, graph in self.located.graphs.items():
            edits[mode] = []
            for anatomy in graph.of_plan(insertion.site):
                edit = edit_for(graph, anatomy, insertion.placement)
                if isinstance(edit, str):
                    return edit
                edits[mode].append(((anatomy.block, anatomy.call), edit))
        home = insertion.module.rpartition(".")[0]
        first_mode = next(iter(edits))
        frame, edit = edits[first_mode][0]
        why = "no module's forward sees the value to gate and all that reads it"
        for path in self._views[first_mode].candidates(home, frame, edit):
            seen = {mode: self._views[mode].seen_by(path, edits[mode]) for mode in edits}
            if any(each is None for each in seen.values()):
                continue
            spot = Spot(insertion, path, {mode: each for mode, each in seen.items() if each is not None})
            problem = self._problem(spot)
            if not problem:
                return spot
            why = problem
        return why

    def graphs(self, path: str) -> Trace:
        """The graphs of the module at `path` alone, in which its children stay single calls.

        Raises:
            AttnInjectError: it cannot be traced by itself.

        """
        if path not in self._traces:
            try:
                self._traces[path] = self._traced(path)
            except AttnInjectError as error:
                # What else traces has paths from this module on, and is no way out of it.
                self._traces[path] = error.stopped if isinstance(error, CodeError) else str(error)
        traced = self._traces[path]
        if isinstance(traced, str):
            raise AttnInjectError(traced)
        return traced

    def has_graphs(self, path: str) -> bool:
        """Whether the module at `path` can be traced by itself."""
        try:
            self.graphs(path)
        except AttnInjectError:
            return False
        return True

    def _traced(self, path: str) -> Trace:
        module = self.located.part.get_submodule(path)
        if other := runs_instead(module, is_whole=not path):
            raise AttnInjectError(f"{block_name(path)} {other}")
        inputs = self.located.trace.inputs if not path else self._inputs(path, module)
        children = [name for name, child in module.named_modules() if child is not module]
        return trace_at_a_size(module, inputs=inputs, whole=children)

    def _inputs(self, path: str, module: nn.Module) -> Inputs:
        first: Inputs | None = None
        for calls in self.located.trace.calls.values():
            # Its code may have caught what a call raised.
            for call in (call for (each, _), call in calls.items() if each == path and call.has_ended):
                inputs = inputs_of_call(module.forward, *call.values)
                if inputs is None:
                    raise AttnInjectError(
                        f"{block_name(path)} is called with what is neither an input nor a plain value"
                    )
                first = first or inputs
                if not inputs.fit_one_graph_with(first):
                    raise AttnInjectError(f"{block_name(path)} is not called with the same arguments each time")
        assert first is not None, f"no call of {path} has ended"
        return first

    def _problem(self, spot: Spot) -> str:
        """Why the spot's module cannot be rewritten; empty if it can."""
        try:
            self.edits(spot)
        except AttnInjectError as error:
            return str(error)
        return ""

    def edits(self, spot: Spot) -> dict[str, Edit]:
        """The spot's edit of each mode's graph of its module.

        Raises:
            AttnInjectError: the module cannot be traced by itself, or does not do by itself what it does in the model.

        """
        trace = self.graphs(spot.path)
        found: dict[str, Edit] = {}
        for mode, graph in trace.graphs.items():
            # A recording knows one mode; what the other one does at the same places is the same.
            seen = spot.seen.get(mode) or next(iter(spot.seen.values()))
            view = self._views.get(mode) or next(iter(self._views.values()))
            edit = _edit_of(seen, view.keys_of(graph, spot.path))
            if edit is None:
                raise AttnInjectError(
                    f"{block_name(spot.path)} does something else by itself than in the model, in {mode} mode"
                )
            found[mode] = edit
        return found


def _edit_of(seen: Seen, keys: Mapping[Key, fx.Node]) -> Edit | None:
    """The edit of a graph with these keys; None if it has not all of it, or nobody would read what is gated."""
    wanted = (seen.value, *(seen.readers or ()), *(() if seen.replaced is None else (seen.replaced,)))
    if not all(key in keys for key in wanted):
        return None
    value = keys[seen.value]
    readers = None if seen.readers is None else tuple(keys[reader] for reader in seen.readers)
    if any(value not in reader.all_input_nodes for reader in readers or ()):
        return None
    return Edit(value, seen.channel_axis, readers, None if seen.replaced is None else keys[seen.replaced])


def runs_instead(module: nn.Module, *, is_whole: bool) -> str:
    """What runs in a block's place of its class's forward, as a sentence's end; empty if that does.

    `is_whole` is for the model itself, whose forward is called by whoever reads it.
    """
    if has_own_forward(module):
        return "has a forward of its own, beside its class's"
    if not is_whole and home_of_own_call(type(module)):
        return "is run by its class's own __call__, which runs no forward"
    return ""
