"""What was put into a model, whoever did it and wherever in it: the records of its parts, the insertions of all."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..tracing.injected import InjectedModule
from ..tracing.parts import full_path
from ..tracing.prepare import must_be_module
from ..types import Injection, Insertion
from .attachment import attachments_of, must_have_what_was_attached


def records_of(patched: nn.Module) -> tuple[tuple[str, Injection], ...]:
    """The records of all that was put into a model, by `inject` in graphs or by `attach`, each with its part's path.

    Raises:
        PlanError: what was attached is not there any more.

    """
    must_be_module(patched)
    found: list[tuple[str, Injection]] = []
    for path, module in patched.named_modules():
        if isinstance(module, InjectedModule):
            found.append((path, module.injection))
        elif attachments_of(module):
            must_have_what_was_attached(module)
            found += [
                (full_path(path, one.injection.plan.scope or ""), one.injection) for one in attachments_of(module)
            ]
    return tuple(found)


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
