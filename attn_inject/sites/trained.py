"""Whether what stands at a site would ever be trained.

R15. A value that no gradient comes back to is no site: it is computed under `no_grad` (a frozen teacher), or only what
is detached from it, or its indices, reach the outputs.

Asked of the train graph. The data flow of a run does not say where gradients were switched off. A teacher whose weights
the model's own forward writes (an average of the student's) is left a site: attention in the student alone would part
the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from ..tracing.nodes import value_of
from ..tracing.regions import SET_GRAD_MODE
from .operations import name_of, numbers_read
from .written import tensors_written

_CUTS = frozenset({"detach", "argmax", "argmin"})


def written_by_the_model(graph: fx.Graph) -> Callable[[str], bool]:
    """Whether the graph writes into the weights of the block at a path."""
    paths = set(tensors_written(graph))
    return lambda block: any(path.startswith(f"{block}.") or not block for path in paths)


def with_gradients(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values a gradient of the outputs comes back to."""
    cut: set[fx.Node] = set()
    on = True
    for node in graph.nodes:
        if node.target is SET_GRAD_MODE:
            # Switched back to what it was before, which is a node.
            on = node.args[0] is not False
        elif node.op != "output" and not (on and _lets_through(node)):
            cut.add(node)
    reached: set[fx.Node] = set()
    pending = [node for node in graph.nodes if node.op == "output"]
    while pending:
        for source in numbers_read(pending.pop()):
            if source not in reached and source not in cut:
                reached.add(source)
                pending.append(source)
    return reached


def _lets_through(node: fx.Node) -> bool:
    if name_of(node) in _CUTS:
        return False
    values = tree_leaves(value_of(node))
    return not values or any(map(_may_have_gradient, values))


def _may_have_gradient(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() or value.is_complex()
    # Numbers have none; what else there is may hold tensors.
    return value is None or not isinstance(value, (bool, int, float, str, torch.dtype, torch.device))
