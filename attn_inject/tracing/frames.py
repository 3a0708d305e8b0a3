"""The calls of modules that a trace went into: who called whom, with which values, and what came back.

A graph is flat. Who wants to know what one module's own `forward` sees (its arguments, what its children gave back)
asks here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves, tree_map

from .nodes import Frame, frame_of, value_of

ROOT: Frame = ("", 0)


@dataclass(frozen=True)
class Call:
    """One call: the call that made it, its arguments and its result, with nodes in the place of values.

    `is_bare` is one of which no hook hears: of a forward by its name, or of a class's own `__call__`.
    """

    parent: Frame | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    result: Any = None
    is_bare: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it gave something: one that raised has neither arguments nor a result."""
        return self.kwargs is not None

    @property
    def values(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the trace had them: tensors on the meta device, plain values."""
        return tree_map(_value, self.args), {name: tree_map(_value, held) for name, held in (self.kwargs or {}).items()}


Calls = Mapping[Frame, Call]


class CallStack:
    """The calls that code has gone into while it is followed, and where it is now."""

    def __init__(self) -> None:
        self.calls: dict[Frame, Call] = {ROOT: Call(None)}
        self._open: list[Frame] = [ROOT]
        # The model may call itself: its own first call is that of the trace.
        self._entries = Counter({"": 1})

    @property
    def innermost(self) -> Frame:
        """The call whose own code runs."""
        return self._open[-1]

    @contextmanager
    def within(self, path: str, *, is_bare: bool = False) -> Iterator[Frame]:
        """What runs in here runs in a call of the module at `path`, which is given."""
        frame = path, self._entries[path]
        # What it was given is noted when it has ended well: code may catch what it raises.
        self.calls[frame] = Call(self.innermost, is_bare=is_bare)
        self._open.append(frame)
        self._entries[path] += 1
        try:
            yield frame
        finally:
            self._open.pop()

    def ended(self, frame: Frame, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note what a call made from here was given and gave."""
        self.calls[frame] = replace(self.calls[frame], args=args, kwargs=kwargs, result=result)


def as_handed_over(structure: Any) -> Any:
    """The same structure with lists and dicts of its own: who is given them may write into them."""
    kind = type(structure)
    if kind in (tuple, list):
        return kind(map(as_handed_over, structure))
    return {key: as_handed_over(part) for key, part in structure.items()} if kind is dict else structure


def with_nodes(structure: Any) -> Any:
    """The same structure with nodes in the place of proxies."""
    kind = type(structure)
    # A proxy answers `isinstance` for what it stands for.
    if issubclass(kind, fx.Proxy):
        return structure.node
    # Every call of every module comes by here, mostly with one value: torch's own walk takes longer to set out.
    if kind in (tuple, list):
        return kind(with_nodes(part) for part in structure)
    if kind is dict:
        return {key: with_nodes(part) for key, part in structure.items()}
    return structure if kind in _PLAIN else tree_map(_node_of, structure)


_PLAIN = (bool, int, float, str, type(None), torch.Tensor)


def _node_of(part: Any) -> Any:
    return part.node if issubclass(type(part), fx.Proxy) else part


def values_in(structure: Any) -> Any:
    """The same structure with the values of proxies in their place."""
    return tree_map(_value, with_nodes(structure))


def nodes_in(structure: Any) -> Iterator[fx.Node]:
    """The nodes in a structure, in order."""
    return (part for part in tree_leaves(structure) if isinstance(part, fx.Node))


def stack_of(calls: Calls, frame: Frame) -> list[Frame]:
    """The call and those around it, the model's own first."""
    stack = [frame]
    while (parent := calls[stack[-1]].parent) is not None:
        stack.append(parent)
    return stack[::-1]


def stack_of_node(calls: Calls, node: fx.Node) -> list[Frame]:
    """The calls within which a node was made, the model's own first."""
    return stack_of(calls, frame_of(node))


def _value(part: Any) -> Any:
    return value_of(part) if isinstance(part, fx.Node) else part
