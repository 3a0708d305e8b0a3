"""A plan carried out on a model, and checked; and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import RewriteError
from ..planning.plan import read_for
from ..sites.reading import LocatedModel
from ..tracing.alias import alias
from ..tracing.checkpoints import checkpoint_losses
from ..tracing.compiled import as_written
from ..tracing.injected import InjectedModule
from ..tracing.parts import parts_to_change, put_in_place
from ..tracing.prepare import not_kept
from ..tracing.regions import ordinary_mode
from ..tracing.turns import turn_losses
from ..types import Plan, block_name
from .attachment import attachments_of, must_not_hold_attached
from .constants import warn_of_what_stays
from .detach import detached
from .own_names import must_leave_room, must_not_be_hidden
from .parameters import unfreeze_statistics
from .postconditions import verify_part
from .pristine import without_attention
from .rewrite import rewrite
from .surroundings import in_surroundings, must_be_apart


def apply_plan(model: nn.Module, plan: Plan, *, example_inputs: Any = None, check: bool = True) -> InjectedModule:
    """Put a plan's attention into `model`, as `inject` does; the model itself is left as it was.

    >>> from dataclasses import replace
    >>> from attn_inject import apply_plan, make_plan
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> plan = make_plan(model, "eca")
    >>> patched = apply_plan(model, replace(plan, insertions=plan.insertions[:1]))
    >>> [name for name in patched.state_dict() if ".eca." in name]
    ['layer1.0.eca.conv.weight']

    Args:
        example_inputs: for models with several inputs, one value for each.
        check: whether to verify the result (see `verify`).

    Raises:
        PlanError: the plan does not fit the model.
        RewriteError: the result failed a check; names it with its figure.

    """
    return apply_to(read_for(model, plan, example_inputs), plan, check=check)


@ordinary_mode()
@as_written()
def apply_to(located: LocatedModel, plan: Plan, *, check: bool = True) -> InjectedModule:
    """`apply_plan` on a model that has been read."""
    must_be_apart(located.model, located.scope)
    must_leave_room(located.model)
    must_not_be_hidden(located.part)
    trace = located.trace
    losses = not_kept(located.part, trace.graphs.values(), trace.fixed_arguments, trace.hooks)
    losses = (*located.without, *losses)
    losses += checkpoint_losses(map(block_name, trace.checkpoints))
    losses += turn_losses(in_turn=trace.in_turn)
    patched = rewrite(located, plan, losses)
    if check:
        verification = verify_part(located.part, patched, fresh=True)
        patched.injection = replace(patched.injection, verification=verification)
        failed = [item for item in verification.checks if not item.passed]
        if failed:
            raise RewriteError("; ".join(f"verification of {item.name} failed: {item.figure}" for item in failed))
    return in_surroundings(located, patched, compared=check)  # type: ignore[return-value]


def remove(patched: nn.Module) -> nn.Module:
    """The model without its attention: the current weights of everything else, shared with `patched`, which stays as
    it is.

    What an attention replaced is put back. The result is a graph module (with an empty plan) whose outputs equal the
    original's to the bit as long as no weight was trained; scoped injections give the surrounding model back, without
    the attention of any of them. For what `attach` returned it is `detach`. What `fold` made factors of layers stays in
    them, which a `UserWarning` says.

    >>> import torch
    >>> from attn_inject import inject, remove
    >>> from attn_inject.zoo.cifar import models
    >>> model, x = models()["resnet20"]().eval(), torch.randn(1, 3, 32, 32)
    >>> torch.equal(remove(inject(model, "se"))(x), model(x))
    True

    Raises:
        PlanError: `patched` is not a patched model.

    """
    warn_of_what_stays(patched)
    if attachments_of(patched):
        return unfreeze_statistics(detached(patched))
    must_not_hold_attached(patched)
    bare = {path: without_attention(part) for path, part in parts_to_change(patched).items()}
    if "" in bare:
        return unfreeze_statistics(bare[""])
    outer = put_in_place(alias(patched), bare)
    vars(outer).pop("injection", None)
    return unfreeze_statistics(outer)
