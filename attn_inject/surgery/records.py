"""What was put into a model, whoever did it and wherever in it: the records of its parts, the insertions of all."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..tracing.injected import InjectedModule
from ..tracing.parts import full_path, patched_parts
from ..types import Injection, Insertion
from .attachment import must_have_what_was_attached


def records_of(patched: nn.Module) -> tuple[tuple[str, Injection], ...]:
    """The records of all that was put into a model, by `inject` in graphs or by `attach`, each with its part's path.

    Raises:
        PlanError: what was attached is not there any more.

    """
    if any(isinstance(module, InjectedModule) for module in patched.modules()):
        return tuple((path, part.injection) for path, part in patched_parts(patched).items())
    held = getattr(patched, "injection", None)
    if not isinstance(held, Injection):
        return ()
    must_have_what_was_attached(patched)
    return tuple((record.plan.scope or "", record) for record in (*held.others, replace(held, others=())))


def in_whole(part: str, insertion: Insertion) -> Insertion:
    """The insertion of a patched part, by the paths in the whole model."""
    if not part:
        return insertion
    return replace(
        insertion,
        site=replace(insertion.site, block=full_path(part, insertion.site.block)),
        module=full_path(part, insertion.module),
        replaces=None if insertion.replaces is None else full_path(part, insertion.replaces),
    )
