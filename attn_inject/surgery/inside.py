"""What one module's own code sees of a model's graph: which values, which readers, and how they are known again."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from ..sites.placement import Edit
from ..tracing.factories import Applied
from ..tracing.frames import nodes_in, stack_of, stack_of_node
from ..tracing.nodes import Frame, frame_of, place_of
from ..tracing.spelled import written
from ..tracing.trace import Trace

Key = tuple[Any, ...]
"""What tells a value of a module's own code from the others, in any trace of that code."""


@dataclass(frozen=True)
class Seen:
    """An edit by the keys of its values in one module's code."""

    value: Key
    channel_axis: int
    readers: tuple[Key, ...] | None = None
    replaced: Key | None = None


class View:
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
            key = ("call", written(target), place_of(node))
        else:
            key = (node.op, str(node.target))
        keys[(*key, counts[key])] = node
        counts[key] += 1
    return keys
