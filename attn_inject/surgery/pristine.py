"""The way back: a patched part as it was before any attention."""

from __future__ import annotations

import copy
from dataclasses import replace

from ..tracing.alias import alias
from ..tracing.injected import InjectedModule
from ..tracing.trace import MODES


def without_attention(inner: InjectedModule) -> InjectedModule:
    """The part over the same weights without its attention, with what that replaced; `inner` stays as it is."""
    skeleton = alias(inner)
    plan = inner.injection.plan
    for insertion in plan.insertions:
        home, _, child = insertion.module.rpartition(".")
        skeleton.get_submodule(home)._modules.pop(child)
    for path, module in inner.displaced.items():
        home, _, child = path.rpartition(".")
        skeleton.get_submodule(home).add_module(child, alias(module))
    graphs = {mode: copy.deepcopy(inner.pristine_graph_of(mode)) for mode in MODES}
    pristine = {mode: copy.deepcopy(graph) for mode, graph in graphs.items()}
    bare = replace(inner.injection, plan=replace(plan, insertions=(), removals=(), notes=()), verification=None)
    result = InjectedModule(skeleton, graphs, pristine, {}, {}, bare, inner.fixed)
    result.training = inner.training
    return result
