"""Which parameters and buffers a graph changes in place."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from ..tracing.spelled import is_writing
from .operations import name_of

# Beside the functions that say so by their name.
_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "setitem", "index_assign", "set_data"}
_WITH_STATISTICS = {"batch_norm", "instance_norm"}


def tensors_written(graph: fx.Graph) -> Iterator[str]:
    """The paths of the tensors of the model that the graph writes into, or into views of which."""
    held: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            held[node] = str(node.target)
        elif node.op in ("call_method", "call_function"):
            # Those of `torch.nn.init` are called by name.
            first = next(iter((*node.args, *node.kwargs.values())), None)
            out = node.kwargs.get("out")
            into = [
                each
                for each in (*(first if isinstance(first, (list, tuple)) else [first]), out)
                if isinstance(each, fx.Node) and each in held
            ]
            name = name_of(node)
            if name in _IN_PLACE or is_writing(name):
                yield from (held[each] for each in into)
            elif out in into:
                yield held[out]
            if name in _WITH_STATISTICS:
                # Somebody's statistics may be parameters that want no gradient.
                statistics = (*node.args[1:3], node.kwargs.get("running_mean"), node.kwargs.get("running_var"))
                yield from (held[each] for each in statistics if isinstance(each, fx.Node) and each in held)
            if into:
                held[node] = held[into[0]]
