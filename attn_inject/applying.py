"""A plan carried out on a model, and checked; and the way back."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from .aliasing import alias
from .errors import RewriteError
from .injected import InjectedModule
from .preparing import not_kept
from .reading import Reading, read, submodule
from .rewriting import rewrite
from .types import Plan
from .verifying import injected_part, verify


def apply_plan(model: nn.Module, plan: Plan, *, example_inputs: Any = None, check: bool = True) -> InjectedModule:
    """Put a plan's attention into `model`, as `inject` does; the model itself is left as it was.

    Args:
        example_inputs: for models with several inputs, one value for each.
        check: whether to verify the result (see `verify`).

    Raises:
        PlanError: the plan does not fit the model.
        RewriteError: the result failed a check; names it with its figure.

    """
    size = None if example_inputs is not None or plan.input_shape is None else plan.input_shape[1:]
    reading = read(model, example_inputs=example_inputs, input_size=size, kinds=plan.kinds, scope=plan.scope)
    return apply_to(reading, plan, check=check)


def apply_to(reading: Reading, plan: Plan, *, check: bool = True) -> InjectedModule:
    """`apply_plan` on a model that has been read."""
    part = submodule(reading.model, reading.scope)
    losses = not_kept(part, reading.trace.graphs.values(), reading.trace.fixed_arguments)
    patched = rewrite(reading, plan, losses)
    if check:
        verification = verify(reading.model, patched)
        inner, _ = injected_part(patched)
        inner.injection = replace(inner.injection, verification=verification)
        if patched is not inner:
            vars(patched)["injection"] = inner.injection
        failed = [item for item in verification.checks if not item.passed]
        if failed:
            raise RewriteError("; ".join(f"verification of {item.name} failed: {item.figure}" for item in failed))
    return patched  # type: ignore[return-value]


def remove(patched: nn.Module) -> nn.Module:
    """The model without its attention: the current weights of everything else, shared with `patched`, which stays as
    it is.

    What an attention replaced is put back. The result is a graph module (with an empty plan) whose outputs equal the
    original's to the bit as long as no weight was trained; a scoped injection gives the surrounding model back.

    Raises:
        PlanError: `patched` is not a patched model.

    """
    inner, scope = injected_part(patched)
    skeleton = alias(inner)
    plan = inner.injection.plan
    for insertion in plan.insertions:
        home, _, child = insertion.module.rpartition(".")
        skeleton.get_submodule(home)._modules.pop(child)
    for path, module in inner._inj_aside.items():
        home, _, child = path.rpartition(".")
        skeleton.get_submodule(home).add_module(child, alias(module))
    graphs = {mode: copy.deepcopy(inner.pristine_graph_of(mode)) for mode in ("eval", "train")}
    pristine = {mode: copy.deepcopy(graph) for mode, graph in graphs.items()}
    bare = replace(inner.injection, plan=replace(plan, insertions=(), removals=(), notes=()), verification=None)
    result = InjectedModule(skeleton, graphs, pristine, {}, {}, bare)
    result.training = inner.training
    if not scope:
        return result
    outer = alias(patched)
    home, _, child = scope.rpartition(".")
    setattr(outer.get_submodule(home), child, result)
    vars(outer).pop("injection", None)
    return outer
