"""The patched part of a model in its place: the model around it, which calls it as it called the original."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..errors import GuardError, PlanError, first_line
from ..sites.reading import LocatedModel
from ..tracing.alias import alias
from ..tracing.injected import InjectedModule
from ..tracing.parts import put_in_place, record_of
from ..tracing.shapes import inputs_to_try
from .attach import Gate

_TRIALS = 3


def must_be_apart(model: nn.Module, scope: str | None) -> None:
    """Refuse a part that lies within a patched one, whose graph would not run it, or that holds one; and a model
    that has attached attention.

    Raises:
        PlanError: names the patched part, and how both can be had.

    """
    place = f"{scope}." if scope else ""
    for path, module in model.named_modules():
        if any(isinstance(hook, Gate) for hook in module._forward_hooks.values()):
            raise PlanError("attach() put attention into this model, which a graph would lose: detach() it first")
        if not isinstance(module, InjectedModule) or path == (scope or ""):
            continue
        if place.startswith(f"{path}.") or not path:
            where = f"scope={path!r}" if path else "no scope"
            raise PlanError(
                f"{scope} lies in {path or 'the model'}, which is a graph since it was patched: "
                f"inject with {where} and include=, which patches more blocks of that graph"
            )
        if path.startswith(place):
            raise PlanError(
                f"{path} was patched by itself: inject into the other parts with scope=, or remove() it first"
            )


def in_surroundings(located: LocatedModel, patched: InjectedModule) -> nn.Module:
    """The patched part in its place in an alias of the model, which then carries the record; itself without a scope.

    Where the whole runs on an image of a usual size, it is tried with the part in its place, without arithmetic.

    Raises:
        PlanError: the whole asks the part for what a graph does not have.

    """
    if not located.scope:
        return patched
    outer = alias(located.model)
    put_in_place(outer, {located.scope: patched})
    if not _was_tried(located, outer):
        untried = f"a trial of the model around {located.scope}: it runs on no image of a usual size"
        patched.injection = replace(patched.injection, not_kept=(*patched.injection.not_kept, untried))
    vars(outer)["injection"] = patched.injection
    vars(outer)["injection"] = record_of(outer)
    return outer


def _was_tried(located: LocatedModel, outer: nn.Module) -> bool:
    """Run both on the meta device, in eval mode; what the original, or the part's guards, refuse says nothing."""
    before, after = (alias(model).to("meta").eval() for model in (located.model, outer))
    for number, inputs in enumerate(inputs_to_try(before)):
        if number == _TRIALS:
            break
        given = inputs.on_meta()
        with torch.no_grad(), torch.device("meta"):
            try:
                before(*given.positional, **given.named)
            except Exception:
                continue
            try:
                after(*given.positional, **given.named)
            except GuardError:
                # The whole gives the part another size than it was traced with, or shapes alone have another device.
                continue
            except Exception as error:
                raise PlanError(
                    f"the model around {located.scope} does not run with a graph in its place ({first_line(error)}): "
                    "use attach(), which keeps the part's own class, or inject without a scope"
                ) from error
        return True
    return False
