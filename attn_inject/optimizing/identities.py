"""Nodes that do nothing in eval mode, taken out: they would stand between operations that belong together.

Condition:
 I1. An `Identity` or a dropout layer without hooks, or a dropout function (stochastic depth, drop block) whose
     `training` argument is False.
"""

from __future__ import annotations

import inspect

from torch import fx, nn

from ..sites.operations import name_of
from ..sites.vocabulary import DROPS
from ..tracing.hook_tables import is_hooked


def remove_identities(root: nn.Module, graph: fx.Graph) -> int:
    """Take out what I1 names. Returns how many nodes are gone."""
    removed = 0
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and _does_nothing(root, node):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
            removed += 1
    return removed


def is_idle(root: nn.Module, node: fx.Node) -> bool:
    """Whether the node calls an `Identity` without hooks, which does nothing in any mode."""
    if node.op != "call_module":
        return False
    module = root.get_submodule(str(node.target))
    return type(module) is nn.Identity and not is_hooked(module)


def past_identities(root: nn.Module, node: fx.Node) -> fx.Node:
    """The last of the identities without hooks that alone read `node`, one after the other; itself without any."""
    while len(node.users) == 1 and is_idle(root, next(iter(node.users))):
        (node,) = node.users
    return node


def _does_nothing(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return is_idle(root, node) or (isinstance(module, nn.modules.dropout._DropoutNd) and not is_hooked(module))
    if node.op != "call_function" or name_of(node) not in DROPS or not callable(node.target):
        return False
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):
        return False
    return given.get("training") is False
