"""What one does with a patched model's new parameters: list them, save them apart, train them alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..tracing.parts import full_path, patched_parts
from .attachment import attached_modules


def attention_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of the new modules, each once; for an optimizer's own group, say.

    >>> from attn_inject import attention_parameters, inject
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "eca")
    >>> sum(parameter.numel() for parameter in attention_parameters(patched))
    27

    Raises:
        PlanError: `model` is no patched model.

    """
    seen: set[int] = set()
    for path in _new_modules(model):
        for parameter in model.get_submodule(path).parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter


def attention_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The new modules' part of the model's state dict, under the names they have there.

    >>> from attn_inject import attention_state_dict, inject
    >>> from attn_inject.zoo.cifar import models
    >>> list(attention_state_dict(inject(models()["resnet20"](), "eca", stages=0)))
    ['layer1.0.eca.conv.weight', 'layer1.1.eca.conv.weight', 'layer1.2.eca.conv.weight']

    Raises:
        PlanError: `model` is no patched model.

    """
    modules = tuple(f"{path}." for path in _new_modules(model))
    return {name: tensor for name, tensor in state_of(model).items() if name.startswith(modules)}


def state_of(model: nn.Module, *, keep_vars: bool = False) -> dict[str, Any]:
    """The state dict by the paths of modules, whatever the model's class makes of its own."""
    return nn.Module.state_dict(model, keep_vars=keep_vars)


def freeze_original(model: nn.Module, *, statistics: bool = True) -> nn.Module:
    """Stop gradients to everything but the new modules; returns the model. Its original is not affected.

    With `statistics`, the norms of the original stay in eval mode when the model trains, so that what they have
    counted stays as it is too; without, `train()` reaches them (again), as it does in what `remove` and `detach` give.
    So `freeze_original(model, statistics=False).requires_grad_(True)` trains all again. Files do not keep this: freeze
    what was loaded. Nor do norms that others take the place of: convert them before they are frozen
    (`nn.SyncBatchNorm.convert_sync_batchnorm`).

    >>> from attn_inject import freeze_original, inject
    >>> from attn_inject.zoo.cifar import models
    >>> frozen = freeze_original(inject(models()["resnet20"](), "eca")).train()
    >>> {name.split(".")[-3] for name, p in frozen.named_parameters() if p.requires_grad}
    {'eca'}
    >>> frozen.training, frozen.bn1.training
    (True, False)

    Raises:
        PlanError: `model` is no patched model.

    """
    new = {id(parameter) for parameter in attention_parameters(model)}
    for parameter in model.parameters():
        parameter.requires_grad = id(parameter) in new
    within = tuple(f"{path}." for path in _new_modules(model))
    unfreeze_statistics(model)
    for path, module in model.named_modules():
        if statistics and not f"{path}.".startswith(within) and _counts(module):
            vars(module)["train"] = _StaysInEval(module)
            module.eval()
    return model


def unfreeze_statistics(model: nn.Module) -> nn.Module:
    """Let norms that `freeze_original` keeps in eval mode go into the model's mode again; returns the model."""
    for module in model.modules():
        if isinstance(vars(module).get("train"), _StaysInEval):
            del vars(module)["train"]
            module.train(mode=model.training)
    return model


def hold_parameters_of(model: nn.Module, other: nn.Module) -> None:
    """Let `other` hold the very parameters of `model` where it has others over their memory, under the same names."""
    own = dict(model.named_parameters(remove_duplicate=False))
    for path, module in other.named_modules(remove_duplicate=False):
        for name, held in module._parameters.items():
            theirs = own.get(full_path(path, name))
            if held is not None and theirs is not None and theirs.data_ptr() == held.data_ptr():
                module._parameters[name] = theirs


def _counts(module: nn.Module) -> bool:
    """Whether a module keeps statistics of what passes through it in train mode."""
    return isinstance(module._buffers.get("running_mean"), torch.Tensor)


class _StaysInEval:
    """In the place of a module's `train`: whatever mode the model goes into. Copies and pickles with the module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, mode: bool = True) -> nn.Module:  # noqa: ARG002, FBT001, FBT002  # torch's own signature
        for part in self._module.modules():
            part.training = False
        return self._module


def _new_modules(model: nn.Module) -> list[str]:
    """The paths of the new modules of all patched parts, whatever their form."""
    attached = attached_modules(model)
    if attached:
        return attached
    return [
        full_path(path, insertion.module)
        for path, part in patched_parts(model).items()
        for insertion in part.injection.plan.insertions
    ]
