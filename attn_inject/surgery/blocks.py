"""In whose `forward` an attention is called, and where in it: an edit of the model's graph seen from one module.

B1. The module is the block that holds the site, or, where the gated value lives inside a child of it, that child: the
    outermost from there inward that sees the value, and all that shall read it gated.
B2. A module sees what its own code makes, what its children give back, and what it is given.
B3. It is gated in all its calls, or it is not the one: a module that also runs elsewhere would gate there too.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from ..errors import AttnInjectError
from ..sites.placement import Edit, edit_for
from ..sites.reading import LocatedModel
from ..tracing.alias import has_own_forward
from ..tracing.calls import inputs_of_call
from ..tracing.factories import Applied
from ..tracing.frames import nodes_in, stack_of, stack_of_node
from ..tracing.inputs import Inputs
from ..tracing.nodes import Frame, frame_of, place_of
from ..tracing.shapes import trace_at_a_size
from ..tracing.trace import Trace
from ..types import Insertion, block_name

Key = tuple[Any, ...]
"""What tells a value of a module's own code from the others, in any trace of that code."""


@dataclass(frozen=True)
class Seen:
    """An edit by the keys of its values in one module's code."""

    value: Key
    channel_axis: int
    readers: tuple[Key, ...] | None = None
    replaced: Key | None = None


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
        self._views = {mode: _View(located.trace, mode) for mode in located.graphs}
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
                self._traces[path] = str(error)
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
        if has_own_forward(module):
            raise AttnInjectError(f"{block_name(path)} has a forward of its own, beside its class's")
        inputs = self.located.trace.inputs if not path else self._inputs(path, module)
        if inputs is None:
            raise AttnInjectError(f"{block_name(path)} is called with what is neither an input nor a plain value")
        children = [name for name, child in module.named_modules() if child is not module]
        return trace_at_a_size(module, inputs=inputs, whole=children)

    def _inputs(self, path: str, module: nn.Module) -> Inputs | None:
        calls = next(iter(self.located.trace.calls.values()))
        # Its code may have caught what a first call raised.
        args, kwargs = next(call for (each, _), call in calls.items() if each == path and call.has_ended).values
        return inputs_of_call(module.forward, args, kwargs)

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


class _View:
    """One mode's graph, from the inside of its calls."""

    def __init__(self, trace: Trace, mode: str) -> None:
        self._graph = trace.graphs[mode]
        self._calls = trace.calls[mode]
        self._skeleton = trace.skeleton

    @cached_property
    def _names(self) -> dict[nn.Module, str]:
        return {module: path for path, module in self._skeleton.named_modules()}

    def candidates(self, home: str, block: Frame, edit: Edit) -> Iterator[str]:
        """B1: the paths of the modules that may call the attention, the likeliest first."""
        stack = stack_of_node(self._calls, edit.replaced or edit.value)
        paths = [path for path, _ in stack]
        start = next((i for i, frame in enumerate(stack) if frame[0] == home or frame == block), None)
        inward = paths[start:] if start is not None else []
        around = [path for path, _ in stack_of(self._calls, block)][::-1]
        outward = paths[:start][::-1]
        yield from dict.fromkeys((*inward, *around, *outward))

    def seen_by(self, path: str, edits: list[tuple[Frame, Edit]]) -> Seen | None:
        """The edits as the module at `path` sees them in each of its calls, if it sees them all alike (B2, B3)."""
        calls = [frame for frame in self._calls if frame[0] == path]
        seen: dict[Frame, Seen] = {}
        for block, edit in edits:
            inside = stack_of_node(self._calls, edit.replaced or edit.value)
            # What a module is given was made outside of it.
            frame = next((f for f in (*inside[::-1], *stack_of(self._calls, block)[::-1]) if f[0] == path), None)
            view = None if frame is None else self._in_frame(frame, edit)
            if frame is None or view is None or frame in seen:
                return None
            seen[frame] = view
        first = next(iter(seen.values()))
        return first if len(seen) == len(calls) and all(view == first for view in seen.values()) else None

    def _in_frame(self, frame: Frame, edit: Edit) -> Seen | None:
        maker = self._maker(frame, edit.value)
        if maker is None:
            return None
        key, child = maker
        replaced = None
        if edit.replaced is not None:
            there = self._maker(frame, edit.replaced)
            if there is None:
                return None
            replaced, _ = there
        elif edit.readers is None and any(child in stack_of_node(self._calls, user) for user in edit.value.users):
            # Part of what reads it does so within the child that makes it.
            return None
        elif (
            edit.readers is None
            and key[0] == "given"
            and not all(frame in stack_of_node(self._calls, user) for user in edit.value.users)
        ):
            return None
        readers = None
        if edit.readers is not None:
            found = [self._reader(frame, reader, edit) for reader in edit.readers]
            if any(reader is None for reader in found):
                return None
            readers = tuple(dict.fromkeys(reader for reader in found if reader is not None))
        return Seen(key, edit.channel_axis, readers, replaced)

    def _maker(self, frame: Frame, value: fx.Node) -> tuple[Key, Frame | None] | None:
        """(the value's key in the call's own code, the child's call that made it), if the code sees it."""
        if frame_of(value) == frame:
            return self._own_key(frame, value), None
        child = self._child(frame, value)
        if child is not None:
            result = self._calls[child].result
            if result is value:
                return self._call_key(frame, child), child
            parts = list(result) if isinstance(result, (tuple, list)) else []
            return next(
                ((("part", self._call_key(frame, child), i), child) for i, part in enumerate(parts) if part is value),
                None,
            )
        call = self._calls[frame]
        given = [*enumerate(call.args), *(call.kwargs or {}).items()]
        return next(((("given", place), None) for place, part in given if part is value), None)

    def _child(self, frame: Frame, node: fx.Node) -> Frame | None:
        """The call of a child, made in the call `frame`, within which the node was made."""
        stack = stack_of_node(self._calls, node)
        return stack[stack.index(frame) + 1] if frame in stack[:-1] else None

    def _reader(self, frame: Frame, reader: fx.Node, edit: Edit) -> Key | None:
        if frame_of(reader) == frame:
            return self._own_key(frame, reader)
        child = self._child(frame, reader)
        if child is None:
            return None
        call = self._calls[child]
        inside = [user for user in edit.value.users if child in stack_of_node(self._calls, user)]
        passed = edit.value in list(nodes_in((call.args, call.kwargs)))
        return self._call_key(frame, child) if passed and set(inside) <= set(edit.readers or ()) else None

    def _own_key(self, frame: Frame, node: fx.Node) -> Key:
        return next(key for key, value in self._keys(frame).items() if value is node)

    def _call_key(self, frame: Frame, child: Frame) -> Key:
        calls = [other for other, call in self._calls.items() if call.parent == frame and other[0] == child[0]]
        return ("module", child[0], sorted(calls).index(child))

    def _keys(self, frame: Frame) -> dict[Key, fx.Node]:
        own = [node for node in self._graph.nodes if frame_of(node) == frame]
        return _numbered(own, lambda path: path)

    def keys_of(self, graph: fx.Graph, path: str) -> dict[Key, fx.Node]:
        """The nodes of a graph that was traced from the module at `path` alone, by key."""
        root = self._skeleton.get_submodule(path)
        keys = _numbered(list(graph.nodes), lambda child: self._names[root.get_submodule(child)])
        for number, node in enumerate(node for node in graph.nodes if node.op == "placeholder"):
            keys[("given", number)] = keys[("given", str(node.target))] = node
        for key, node in list(keys.items()):
            for user in node.users:
                if user.op == "call_function" and user.target is operator.getitem and isinstance(user.args[1], int):
                    keys.setdefault(("part", key, user.args[1]), user)
        return keys


def _numbered(nodes: list[fx.Node], canonical: Any) -> dict[Key, fx.Node]:
    """Nodes of one forward by what they call and where in the code, with the number of the turn."""
    counts: Counter[Key] = Counter()
    keys: dict[Key, fx.Node] = {}
    for node in nodes:
        key: Key
        if node.op == "call_module":
            key = ("module", canonical(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            # Each call of a function of somebody's own is a target of its own.
            target = node.target.function if isinstance(node.target, Applied) else node.target
            key = (node.op, target, place_of(node))
        else:
            key = (node.op, str(node.target))
        keys[(*key, counts[key])] = node
        counts[key] += 1
    return keys
