"""Brothers: adds and concats that the same code makes at the same place, in other blocks or in other turns of a loop.

A block's code is the function that runs as its `forward`; a place is a line and instruction of it. Neither asks for the
name of a class, a module or a model.
"""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx, nn

from ..tracing.bare import home_of_own_call
from ..tracing.nodes import Frame, block_of, frame_of, place_of, returned_by
from .flow import Flow


def forward_of(flow: Flow, path: str) -> object:
    """The code that runs when the module at `path` is called."""
    module: nn.Module = flow.operations.root.get_submodule(path)
    home = home_of_own_call(type(module))
    forward = vars(home)["__call__"] if path and home else vars(module).get("forward") or type(module).forward
    function = inspect.unwrap(getattr(forward, "__func__", forward))
    return getattr(function, "__code__", function)


def groups_of(flow: Flow, nodes: Sequence[fx.Node], *, only_ones_alike: bool = False) -> list[list[fx.Node]]:
    """`nodes` by the code and the place that made them; a node whose place is not known is alone.

    With `only_ones_alike`, the place does not matter where a call makes one of `nodes` only: a `forward` that ends in
    this concat or that, by an `if`, ends in one concat.
    """
    made = Counter(frame_of(node) for node in nodes)
    groups: dict[object, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        place = "the only one" if only_ones_alike and made[frame_of(node)] == 1 else place_of(node)
        groups[(forward_of(flow, block_of(node)), place) if place else node].append(node)
    return list(groups.values())


def runs_in(node: fx.Node, path: str) -> bool:
    """Whether the node runs in the module at `path` or below it."""
    block = block_of(node)
    return not path or block == path or block.startswith(f"{path}.")


def is_computed_by(node: fx.Node, frame: Frame) -> bool:
    """Whether the call `frame` computed the node's value, and did not get it from elsewhere or an earlier call."""
    path, call = frame
    if not runs_in(node, path) or (block_of(node) == path and frame_of(node)[1] != call):
        return False
    return not any(p == path and c != call for p, c in returned_by(node))


@dataclass(frozen=True)
class Way:
    """What one call computes on the way to a value, and the values that it starts from."""

    nodes: frozenset[fx.Node]
    inputs: frozenset[fx.Node]

    def holds_convolution(self, flow: Flow) -> bool:
        return any(flow.operations.holds_convolution(node) for node in self.nodes)

    def is_nonlinear(self, flow: Flow) -> bool:
        return any(flow.operations.is_nonlinear(node) for node in self.nodes)


def way_to(flow: Flow, value: fx.Node, frame: Frame) -> Way:
    """The way to `value` within the call `frame`; no nodes at all where the call was given the value."""
    inside: set[fx.Node] = set()
    inputs: set[fx.Node] = set()
    pending = [value]
    while pending:
        step = pending.pop()
        if step in inside or step in inputs:
            continue
        if not is_computed_by(step, frame) or step.op == "placeholder":
            inputs.add(step)
            continue
        inside.add(step)
        pending += flow.operations.sources(step)
    return Way(frozenset(inside), frozenset(inputs))


def enclosing(path: str) -> Iterator[str]:
    """The paths of the modules around what runs at `path`, innermost first, without the model itself."""
    while path:
        yield path
        path = path.rpartition(".")[0]
