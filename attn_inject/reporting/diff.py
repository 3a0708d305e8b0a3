"""How patched blocks differ from the original ones: code and graph, once per distinct shape of block.

A block's code is that of the graph nodes which run inside it, with names relative to the block, so that `layer1.1` and
`layer3.4` read the same. What the block takes from outside is called `x`, `x_1`, ...
"""

from __future__ import annotations

import difflib
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from ..tracing.injected import InjectedModule
from ..tracing.nodes import block_of, has_frame
from .data import BlockDiff, BlockNode, DiffLine

_SYMBOLS: Mapping[Any, str] = {
    operator.add: "+", operator.iadd: "+", operator.sub: "-", operator.mul: "*", operator.imul: "*",
    operator.truediv: "/", operator.floordiv: "//",
}  # fmt: skip
# Unchanged lines that are shown around a change of a long block.
_CONTEXT, _LONG = 3, 40
# The most operations of a block that are drawn in full.
_LARGE = 60
# More neighbours than this are many.
_MANY = 4


def block_diffs(patched: InjectedModule) -> tuple[BlockDiff, ...]:
    """Diff every block that attention went into or out of, in eval mode; equal diffs become one."""
    plan = patched.injection.plan
    touched = [*(insertion.site.block for insertion in plan.insertions), *(site.block for site in plan.removals)]
    graphs = [_nodes_by_block(graph) for graph in (patched.pristine_graph_of("eval"), patched.graph_of("eval"))]
    found: dict[tuple[Any, ...], list[str]] = {}
    for block in dict.fromkeys(touched):
        before, after = (_Listing(block, _inside(nodes, block)) for nodes in graphs)
        key = (_diff(before, after), *_drawn(before.graph(after, "gone"), after.graph(before, "new")))
        found.setdefault(key, []).append(block)
    return tuple(BlockDiff(tuple(blocks), *key) for key, blocks in found.items())


def _nodes_by_block(graph: fx.Graph) -> list[tuple[str, fx.Node]]:
    """Every node that computes something, with its block; a node that has none stands where what it reads does."""
    blocks: dict[fx.Node, str] = {}
    for node in graph.nodes:
        read = next((blocks[argument] for argument in node.all_input_nodes if argument in blocks), "")
        blocks[node] = block_of(node) if has_frame(node) else read
    return [(block, node) for node, block in blocks.items() if node.op not in ("placeholder", "output")]


def _inside(nodes: Iterable[tuple[str, fx.Node]], block: str) -> list[fx.Node]:
    """The nodes of a block and of the modules in it; of the model itself only its own."""
    if not block:
        return [node for path, node in nodes if not path]
    return [node for path, node in nodes if path == block or path.startswith(f"{block}.")]


class _Listing:
    """One block's nodes with their local names and their lines of code."""

    def __init__(self, block: str, nodes: Sequence[fx.Node]) -> None:
        self._block = block
        self._nodes = nodes
        self._names: dict[fx.Node, str] = {}
        taken: dict[str, int] = {}

        def name(node: fx.Node, wish: str) -> None:
            count = taken.get(wish, 0)
            taken[wish] = count + 1
            self._names[node] = f"{wish}_{count}" if count else wish

        inner = set(nodes)
        for node in nodes:
            for argument in node.all_input_nodes:
                if argument not in inner and argument not in self._names:
                    name(argument, "x")
        for node in nodes:
            name(node, self._wish(node))
        self.lines = [f"{self._names[node]} = {self._expression(node)}" for node in nodes]

    def graph(self, other: _Listing, mark: Any) -> tuple[BlockNode, ...]:
        """The nodes and what they read; those that `other` does not have carry `mark`."""
        theirs = {(other._names[node], other._label(node)) for node in other._nodes}
        inner = set(self._nodes)
        outside = {argument for node in self._nodes for argument in node.all_input_nodes if argument not in inner}
        inputs = [
            BlockNode(self._names[node], self._names[node], "kept", ()) for node in self._names if node in outside
        ]
        return (
            *inputs,
            *(
                BlockNode(
                    name=self._names[node],
                    label=self._label(node),
                    mark="kept" if (self._names[node], self._label(node)) in theirs else mark,
                    reads=tuple(self._names[argument] for argument in node.all_input_nodes),
                )
                for node in self._nodes
            ),
        )

    def _relative(self, target: str) -> str:
        return self._in_code(target).removeprefix("self.")

    def _in_code(self, target: str) -> str:
        """How the block's code would name a module: `self.conv1`, or `parent.se` for one that stands beside it."""
        above = self._block.rpartition(".")[0]
        if above and target.startswith(f"{above}.") and not target.startswith(f"{self._block}."):
            return f"parent.{target.removeprefix(f'{above}.')}"
        return f"self.{target.removeprefix(f'{self._block}.') if self._block else target}"

    def _wish(self, node: fx.Node) -> str:
        if node.op in ("call_module", "get_attr"):
            return self._relative(str(node.target)).replace(".", "_")
        return _function_name(node.target).strip("_") or "value"

    def _label(self, node: fx.Node) -> str:
        if node.op in ("call_module", "get_attr"):
            return self._relative(str(node.target))
        return _SYMBOLS.get(node.target, _function_name(node.target))

    def _expression(self, node: fx.Node) -> str:
        args = [self._text(value) for value in node.args]
        if node.op == "call_function" and node.target in _SYMBOLS and len(args) == 2 and not node.kwargs:
            return f"{args[0]} {_SYMBOLS[node.target]} {args[1]}"
        if node.op == "get_attr":
            return self._in_code(str(node.target))
        owner = f"{args.pop(0)}." if node.op == "call_method" else ""
        called = self._in_code(str(node.target)) if node.op == "call_module" else f"{owner}{self._label(node)}"
        words = args + [f"{key}={self._text(value)}" for key, value in node.kwargs.items()]
        return f"{called}({', '.join(words)})"

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._names[value]
        if isinstance(value, (tuple, list)):
            inner = ", ".join(self._text(item) for item in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
        return repr(value)


def _function_name(target: Any) -> str:
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


def _drawn(
    before: tuple[BlockNode, ...], after: tuple[BlockNode, ...]
) -> tuple[tuple[BlockNode, ...], tuple[BlockNode, ...]]:
    """Both graphs; of large ones only what lies near a change, with a `…` for what that reads from further off."""
    if max(len(before), len(after)) <= _LARGE:
        return before, after
    nodes = (*before, *after)
    readers = Counter(read for _, read in {(node.name, read) for node in nodes for read in node.reads})
    near = {node.name for node in nodes if node.mark != "kept"}
    for _ in range(_CONTEXT):
        # Not on from what many read or what reads many: from there everything is near.
        back = {read for node in nodes if node.name in near and len(node.reads) <= _MANY for read in node.reads}
        on = {node.name for node in nodes if any(read in near and readers[read] <= _MANY for read in node.reads)}
        near |= back | on
    return _cut_out(before, near), _cut_out(after, near)


def _cut_out(nodes: Sequence[BlockNode], near: Collection[str]) -> tuple[BlockNode, ...]:
    shown = [node for node in nodes if node.name in near]
    further = dict.fromkeys(read for node in shown for read in node.reads if read not in near)
    return (*(BlockNode(name, "…", "kept", ()) for name in further), *shown)


def _diff(before: _Listing, after: _Listing) -> tuple[DiffLine, ...]:
    lines: list[DiffLine] = []
    matcher = difflib.SequenceMatcher(None, before.lines, after.lines, autojunk=False)
    for tag, b0, b1, a0, a1 in matcher.get_opcodes():
        if tag == "equal":
            lines += [DiffLine("kept", text) for text in before.lines[b0:b1]]
        else:
            lines += [DiffLine("gone", text) for text in before.lines[b0:b1]]
            lines += [DiffLine("new", text) for text in after.lines[a0:a1]]
    return tuple(lines) if len(lines) <= _LONG else _shortened(lines)


def _shortened(lines: Sequence[DiffLine]) -> tuple[DiffLine, ...]:
    """Only what lies near a change; one `...` for every stretch left out."""
    changed = [index for index, line in enumerate(lines) if line.mark != "kept"]
    near = {index + step for index in changed for step in range(-_CONTEXT, _CONTEXT + 1)}
    short: list[DiffLine] = []
    for index, line in enumerate(lines):
        if index in near:
            short.append(line)
        elif not short or short[-1].text != "...":
            short.append(DiffLine("kept", "..."))
    return tuple(short)
