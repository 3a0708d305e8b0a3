"""What a model that `attach` made knows of it: the records, and what it takes to take the attention out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from ..errors import PlanError
from ..tracing.inputs import NO_INPUTS, Inputs
from ..tracing.parts import full_path
from ..tracing.prepare import must_be_module
from ..types import Injection

_ATTACHED = "_attached"


@dataclass(frozen=True)
class Attachment:
    """What was attached to one part of a model.

    `kept` is what stood in the places of new modules, or was called no more, by path; `constants` are the paths of the
    buffers that rewritten forwards read; `orders` are (path, names of its children) of modules that held the former.
    """

    injection: Injection
    inputs: Inputs = NO_INPUTS
    kept: Mapping[str, nn.Module | None] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    orders: tuple[tuple[str, tuple[str, ...]], ...] = ()


def attachments_of(model: nn.Module) -> tuple[Attachment, ...]:
    """What was attached to a model's parts, that of the last call last; none if nothing was."""
    must_be_module(model)
    held: tuple[Attachment, ...] = vars(model).get(_ATTACHED, ())
    return held


def keep_attachments(model: nn.Module, attachments: Sequence[Attachment]) -> None:
    """Let the model know what was attached to it; its `injection` is the record of the last, with those of the rest."""
    for name in ("injection", _ATTACHED):
        vars(model).pop(name, None)
    if attachments:
        *others, last = (one.injection for one in attachments)
        vars(model)["injection"] = replace(last, others=tuple(others))
        vars(model)[_ATTACHED] = tuple(attachments)


def must_not_hold_attached(model: nn.Module) -> None:
    """Refuse what is around a model that `attach` gave (a wrapper, a Sequential), for who wants that model itself.

    Raises:
        PlanError: names its place.

    """
    for path, module in model.named_modules():
        if path and attachments_of(module):
            raise PlanError(
                f"what attach() gave is the {path} of this {type(model).__name__}: pass that, and put what comes back "
                "in its place"
            )


def attached_modules(model: nn.Module) -> list[str]:
    """The paths of all new modules that `attach` put into a model, or into what it holds, part by part of the tree.

    Raises:
        PlanError: one is not where it was put.

    """
    found: list[str] = []
    for home, module in model.named_modules():
        must_have_what_was_attached(module)
        found += [full_path(home, path) for attachment in _in_the_tree(module) for path in _new_in(attachment)]
    return found


def must_have_what_was_attached(model: nn.Module) -> None:
    """Refuse a model whose blocks were taken out, or put into others, with the attention in them.

    Raises:
        PlanError: naming the first new module that is not where it was put.

    """
    for path in (path for attachment in attachments_of(model) for path in _new_in(attachment)):
        if not _has(model, path):
            raise PlanError(
                f"{path}, which was attached, is not there any more: detach() before blocks are taken out or wrapped, "
                "and attach to what is left"
            )


def _new_in(attachment: Attachment) -> list[str]:
    plan = attachment.injection.plan
    return [full_path(plan.scope or "", insertion.module) for insertion in plan.insertions]


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _in_the_tree(model: nn.Module) -> list[Attachment]:
    """What was attached, in the order of a graph's parts: an optimizer's state goes by the order of its parameters."""
    held = attachments_of(model)
    # Most models hold nothing, and listing what a model holds takes time.
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)] if len(held) > 1 else []
    place = {path: number for number, path in enumerate(paths)}
    return sorted(held, key=lambda attachment: place.get(attachment.injection.plan.scope or "", 0))
