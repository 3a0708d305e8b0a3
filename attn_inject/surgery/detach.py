"""The way back from `attach`: the model's own classes and forwards, over the weights as they are now."""

from __future__ import annotations

from torch import nn

from ..errors import PlanError
from ..tracing.alias import alias
from ..tracing.parts import full_path
from ..tracing.rewritten import restore_forward
from .attachment import attachments_of, keep_attachments, must_have_what_was_attached, must_not_hold_attached
from .constants import warn_of_what_stays
from .parameters import unfreeze_statistics


def detach(model: nn.Module) -> nn.Module:
    """The model without the attention that `attach` put in, in one call or several: a copy of the same class, with
    blocks of their own classes, sharing the weights.

    >>> import torch
    >>> from attn_inject import attach, detach
    >>> from attn_inject.zoo.cifar import models
    >>> model, x = models()["resnet20"]().eval(), torch.randn(1, 3, 32, 32)
    >>> torch.equal(detach(attach(model, "eca"))(x), model(x))
    True

    Raises:
        PlanError: nothing was attached to it.

    """
    warn_of_what_stays(model)
    return unfreeze_statistics(detached(model))


def detached(model: nn.Module) -> nn.Module:
    """What `detach` gives, in silence."""
    attachments = attachments_of(model)
    if not attachments:
        must_not_hold_attached(model)
        raise PlanError(f"nothing was attached to this {type(model).__name__}: remove() is for what inject() gave")
    must_have_what_was_attached(model)
    bare = alias(model)
    keep_attachments(bare, ())
    for module in bare.modules():
        restore_forward(module)
    for attachment in reversed(attachments):
        scope = attachment.injection.plan.scope or ""
        for insertion in attachment.injection.plan.insertions:
            home, _, child = full_path(scope, insertion.module).rpartition(".")
            delattr(bare.get_submodule(home), child)
        for path in attachment.constants:
            home, _, name = path.rpartition(".")
            delattr(bare.get_submodule(home), name)
        for path, held in attachment.kept.items():
            home, _, child = path.rpartition(".")
            setattr(bare.get_submodule(home), child, held)
        for home, names in attachment.orders:
            children = bare.get_submodule(home)._modules
            for name in [name for name in names if name in children]:
                children[name] = children.pop(name)
    return bare
