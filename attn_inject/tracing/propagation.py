"""A graph run on meta tensors, so that its nodes know their values."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from ..errors import TraceError
from .caches import nothing_kept
from .explain import SizeError
from .inputs import Inputs
from .nodes import has_value, numbers_of, set_numbers, set_value, value_of
from .values import Values


def propagate(
    root: nn.Module,
    graph: fx.Graph,
    inputs: tuple[Any, ...],
    constants: dict[str, torch.Tensor] | None = None,
    *,
    known: fx.Graph | None = None,
) -> Any:
    """Run `graph` of `root` on meta `inputs`, one for each placeholder; keeps each node's value, returns the output's.

    `known` is a graph of which this one is an edit, with values for the same inputs and modules: a node that is there
    too, with inputs of the same form, has the value that it has there.

    Raises:
        TraceError: naming the node that does not run on these inputs.

    """
    functions = {node.target for node in graph.nodes if node.op == "call_function"}
    with nothing_kept(root, functions):
        return _propagated(Values(root, constants or {}), graph, inputs, known)


def _propagated(values: Values, graph: fx.Graph, inputs: tuple[Any, ...], known: fx.Graph | None) -> Any:
    given = iter(Inputs(inputs).on_meta().values)
    twins = {} if known is None else {node.name: node for node in known.nodes}
    for node in graph.nodes:
        twin = twins.get(node.name)
        try:
            if node.op == "placeholder":
                set_value(node, next(given))
            elif twin is not None and _does_as(node, twin):
                set_value(node, value_of(twin))
                set_numbers(node, numbers_of(twin))
            else:
                set_value(node, values.of(node))
        except TraceError:
            raise
        except Exception as error:
            raise SizeError(node, Inputs(inputs).sizes, error) from error
    return values.of(node)


def _does_as(node: fx.Node, twin: fx.Node) -> bool:
    """Whether both do the same to values of the same form, so that they give the same."""

    def forms(each: fx.Node) -> tuple[Any, ...]:
        return (each.op, each.target, *fx.node.map_arg((each.args, each.kwargs), lambda n: _form(value_of(n))))

    return has_value(twin) and forms(node) == forms(twin)


def _form(value: Any) -> Any:
    """What shapes come of: equal for equal forms, and equal to nothing where that cannot be told."""
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(_form(part) for part in value)
    if isinstance(value, (bool, int, float, str, torch.dtype, torch.device)) or value is None:
        return value
    return object()
