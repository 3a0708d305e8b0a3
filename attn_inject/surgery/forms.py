"""From one form of a patched model to the other: what only a graph can do, an attached model does through its graph."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..errors import PlanError, TraceError
from ..tracing.alias import alias
from ..tracing.explain import SizeError
from ..tracing.inputs import dtype_of
from ..tracing.parts import full_path, patched_parts, record_of
from .apply import apply_plan
from .attachment import Attachment, attachments_of, must_not_hold_attached
from .detach import detached
from .likeness import likeness


def as_graph(patched: nn.Module, *, check: bool = True) -> nn.Module:
    """The model as `inject` makes it, over the weights of one that `attach` made; one that `inject` made as it is.

    Args:
        check: whether to see that the graph does what the attached model does.

    Raises:
        PlanError: it has no graph, since its code decides on data; or it was changed since (a norm became a norm and a
            dropout), so that a graph would have its attention elsewhere.

    """
    attachments = attachments_of(patched)
    if not attachments:
        must_not_hold_attached(patched)
        return patched
    bare = graph = detached(patched)
    for attachment in attachments:
        graph = _with_attention(graph, patched, attachment)
    # The last of each part has what came before it, too.
    for attachment in {each.injection.plan.scope: each for each in attachments}.values() if check else ():
        _must_be_as_attached(graph, patched, bare, attachment)
    graph.train(mode=patched.training)
    if patched_parts(graph).keys() != {""}:
        vars(graph)["injection"] = record_of(graph)
    return graph


def _with_attention(graph: nn.Module, patched: nn.Module, attachment: Attachment) -> nn.Module:
    plan = attachment.injection.plan
    scope = plan.scope or ""
    # The model may be in another type than it was read in.
    inputs = attachment.inputs.in_type(dtype_of(patched))
    try:
        graph = apply_plan(graph, plan, example_inputs=inputs or None, check=False)
    except SizeError as error:
        raise PlanError(
            f"{type(patched).__name__} no longer runs on what it was attached to with ({error.reason}): attach "
            "to what detach() gives, with example_inputs that it takes now"
        ) from error
    except TraceError as error:
        raise PlanError(f"{type(patched).__name__} was attached to without a graph, and has none: {error}") from error
    part = patched_parts(graph)[scope]
    held = attachment.injection
    part.injection = replace(part.injection, verification=held.verification, not_kept=held.not_kept)
    for insertion in plan.insertions:
        home, _, child = full_path(scope, insertion.module).rpartition(".")
        own = patched.get_submodule(full_path(scope, insertion.module))
        setattr(graph.get_submodule(home), child, alias(own))
    return graph


def _must_be_as_attached(graph: nn.Module, patched: nn.Module, bare: nn.Module, attachment: Attachment) -> None:
    """Refuse a graph that does something else than what was attached: its sites were found anew."""
    plan = attachment.injection.plan
    scope = plan.scope or ""
    original, attached = bare.get_submodule(scope), patched.get_submodule(scope)
    part = patched_parts(graph)[scope]
    seen = likeness(original, attachment.inputs, attached, plan.insertions, part, own=False).check
    if seen is not None and not seen.passed:
        raise PlanError(
            f"{type(patched).__name__} has changed since attention was attached, and a graph would have it elsewhere "
            f"({seen.figure}): attach to what detach() gives"
        )
