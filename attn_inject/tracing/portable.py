"""Graphs that pickle, however deep: a node of a `torch.fx.Graph` pickles the nodes it reads, and they theirs, until
Python's stack is at its end.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from torch import fx

from .nodes import portable_meta


@dataclass(frozen=True, slots=True)
class _Place:
    """The node at a place in the list."""

    index: int


@dataclass(frozen=True, slots=True)
class _Named:
    """A function by the module and the name that it stands under, where its own name would not find it again.

    Some of torch's (`torch.nn.functional.max_pool2d`) are made within others.
    """

    module: str
    name: str

    @classmethod
    def of(cls, target: Any) -> Any:
        """The target, or what stands for it."""
        home, name = getattr(target, "__module__", None), getattr(target, "__name__", "")
        if not callable(target) or "<locals>" not in getattr(target, "__qualname__", "") or home not in sys.modules:
            return target
        return cls(home, name) if getattr(sys.modules[home], name, None) is target else target

    def target(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


class PortableGraph:
    """A graph as a list of its nodes, which know only what pickles: meta tensors stay behind."""

    def __init__(self, graph: fx.Graph) -> None:
        places: dict[fx.Node, Any] = {node: _Place(index) for index, node in enumerate(graph.nodes)}
        self._nodes = [
            (
                node.op,
                _Named.of(node.target),
                fx.node.map_arg(node.args, places.__getitem__),
                fx.node.map_arg(node.kwargs, places.__getitem__),
                node.name,
                node.type,
                portable_meta(node),
            )
            for node in graph.nodes
        ]

    def graph(self) -> fx.Graph:
        """The graph again, its nodes under their names."""
        graph = fx.Graph()
        made: list[fx.Node] = []

        def there(part: Any) -> Any:
            return made[part.index] if isinstance(part, _Place) else part

        for op, target, args, kwargs, name, kind, meta in self._nodes:
            reads = fx.node.map_aggregate(args, there), fx.node.map_aggregate(kwargs, there)
            named = target.target() if isinstance(target, _Named) else target
            node = graph.create_node(op, named, *reads, name, kind)
            node.meta = dict(meta)
            made.append(node)
        return graph
