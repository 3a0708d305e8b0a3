"""The data flow of a graph: dominators, and what lies between a value and the fork it came from.

For every node n that carries data, `idom(n)` is the nearest value through which all data reaching n must pass. The
region between n and a dominator f is then described by differences of running counts, so that "is the way from n back
to f affine?" costs the same whatever the size of the block, and the whole search stays linear in the number of nodes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
from torch import fx, nn

from ..tracing.nodes import value_of
from .operations import Operations


class Flow:
    """Dominator tree over the data-carrying nodes of `graph`, with counts along it."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.operations = Operations(root, graph)
        self.order: dict[fx.Node, int] = {}
        self._idom: dict[fx.Node, fx.Node | None] = {}
        self._given: dict[tuple[fx.Node, str], fx.Node] = {}
        self._depth: dict[fx.Node | None, int] = {None: 0}
        self._nonlinear: dict[fx.Node | None, int] = {None: 0}
        self._convolutions: dict[fx.Node | None, int] = {None: 0}
        for index, node in enumerate(graph.nodes):
            self.order[node] = index
            if self.operations.carries[node]:
                self._enter(node)

    def _enter(self, node: fx.Node) -> None:
        sources = self.operations.sources(node)
        if self.is_given(node):
            # What is given in a structure is an input of its own, however often it is taken out.
            first = self._given.setdefault((sources[0], repr(node.args[1:])), node)
            idom = None if first is node else first
        else:
            idom = self.fork(*sources) if sources else None
        self._idom[node] = idom
        self._depth[node] = self._depth[idom] + 1
        own = self.operations
        self._nonlinear[node] = self._sum(self._nonlinear, sources, idom) + own.is_nonlinear(node)
        self._convolutions[node] = self._sum(self._convolutions, sources, idom) + own.holds_convolution(node)

    def is_given(self, node: fx.Node) -> bool:
        """Whether the node takes something out of a list, a dict or an object that is an input, or lies in one."""
        home = node.args[0] if node.args else None
        return (
            isinstance(home, fx.Node)
            and node.target in (operator.getitem, getattr)
            and (home.op == "placeholder" or self.is_given(home))
            and not isinstance(value_of(home), torch.Tensor)
        )

    @staticmethod
    def _sum(counts: dict[fx.Node | None, int], sources: list[fx.Node], idom: fx.Node | None) -> int:
        """Count at the join: what the fork had, plus what lies on any way from the fork to a source.

        Ways that share nodes count them more than once; only whether a difference is zero is ever asked. Capped, since
        dense networks would double the number with every layer.
        """
        total = counts[idom] + sum(counts[source] - counts[idom] for source in sources)
        return min(total, counts[idom] + 1_000_000)

    def fork(self, *nodes: fx.Node) -> fx.Node | None:
        """The nearest value from which all of `nodes` come (one of them, perhaps); None if they share no input."""
        first: fx.Node | None = nodes[0]
        for node in nodes[1:]:
            other: fx.Node | None = node
            while first is not other:
                if self._depth[first] >= self._depth[other]:
                    first = self._idom[first] if first is not None else None
                else:
                    other = self._idom[other] if other is not None else None
        return first

    def idom(self, node: fx.Node) -> fx.Node | None:
        return self._idom.get(node)

    def is_nonlinear(self, node: fx.Node, fork: fx.Node | None) -> bool:
        """Whether anything after `fork`, up to and with `node`, is nonlinear; `fork` must dominate `node`."""
        return self._nonlinear[node] > self._nonlinear[fork]

    def holds_convolution(self, node: fx.Node, fork: fx.Node | None) -> bool:
        return self._convolutions[node] > self._convolutions[fork]

    def mainline(self, node: fx.Node, fork: fx.Node | None) -> Iterator[fx.Node]:
        """The values that everything on the way from `fork` to `node` passes through, last first, `fork` excluded.

        Where not all data comes from the fork (a block of two inputs), what is older than the fork is left out.
        """
        floor = self.order[fork] if fork is not None else -1
        step: fx.Node | None = node
        while step is not None and self.order[step] > floor:
            yield step
            step = self._idom[step]

    def region(self, node: fx.Node, fork: fx.Node | None) -> Iterator[fx.Node]:
        """All nodes on any way from `fork` (exclusive) to `node` (inclusive); stops at `fork`."""
        floor = self.order[fork] if fork is not None else -1
        seen = {node}
        stack = [node]
        while stack:
            step = stack.pop()
            yield step
            for source in self.operations.sources(step):
                if source not in seen and self.order[source] > floor:
                    seen.add(source)
                    stack.append(source)

    def descends(self, node: fx.Node, ancestor: fx.Node) -> bool:
        """Whether `ancestor` is on some way to `node`."""
        floor = self.order[ancestor]
        return node is ancestor or any(
            ancestor in self.operations.sources(n) for n in self.region(node, ancestor) if self.order[n] > floor
        )

    def entries(self, node: fx.Node, fork: fx.Node) -> list[fx.Node]:
        """The nodes directly after `fork` on the ways to `node`."""
        return [step for step in self.region(node, fork) if fork in self.operations.sources(step)]

    def convolutions_in_a_row(self, nodes: Iterable[fx.Node]) -> int:
        """The most convolutions that one path through `nodes` passes."""
        depth: dict[fx.Node, int] = {}
        for node in sorted(nodes, key=self.order.__getitem__):
            before = (depth.get(source, 0) for source in self.operations.sources(node))
            depth[node] = max(before, default=0) + self.operations.holds_convolution(node)
        return max(depth.values(), default=0)
