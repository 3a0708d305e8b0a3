"""Save and load patched models. A file holds tensors and a plan, never code.

| ending         | what it is                                        | `load` | `inspect` |
|----------------|---------------------------------------------------|--------|-----------|
| `.pt`          | tensors and plan, `torch.load(weights_only=True)` | yes    | yes       |
| `.safetensors` | tensors and plan                                  | yes    | yes       |
| `.pt2`         | `torch.export`, any batch size, for others to run | no     | plan only |
| `.onnx`        | ONNX, any batch size, for others to run           | no     | plan only |

Compatibility: files carry a format number, now 1. Every later release of the same major version reads all earlier
formats; a newer format than a release knows is refused with a sentence. Sites are found again by block, not by the
names of graph nodes, so that a file outlives changes in how torch names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, PlanError, must_be_path
from ..files.atomic import write_atomically
from ..files.pt import write_pt
from ..files.safetensors_file import write_safetensors
from ..surgery.attachment import attachments_of, must_have_what_was_attached
from ..surgery.folding import folding_of
from ..surgery.forms import as_graph
from ..surgery.parameters import attention_state_dict, state_of
from ..tracing.alias import alias
from ..tracing.inputs import NO_INPUTS, Inputs, inputs_of
from ..tracing.parts import patched_parts, record_of
from ..tracing.prepare import taken_out
from ..tracing.restoring import aside_in_mode
from .examples import example_inputs_of
from .exported import write_onnx, write_pt2
from .forgetting import without_last_run
from .formats import checked_suffix
from .inputs import inputs_to_plain
from .record import Record, record_to_text
from .refusals import must_be_as_planned, must_be_patched_in_place, must_not_be_optimized


def save(patched: nn.Module, path: str | Path, *, force: bool = True, attention_only: bool = False) -> None:
    """Write a patched model; the ending of `path` picks the format: `.pt`, `.safetensors`, `.pt2` or `.onnx`.

    `load` reads the first two; the others are exports for other programs to run.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from attn_inject import inject, save
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "eca")
    >>> with TemporaryDirectory() as folder:
    ...     save(patched, Path(folder) / "whole.safetensors")
    ...     save(patched, Path(folder) / "attention.safetensors", attention_only=True)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['attention.safetensors', 'whole.safetensors']

    Args:
        force: whether to overwrite a file that is there.
        attention_only: only the new modules' tensors (`.pt`, `.safetensors`); loads onto any copy of the source model.

    Raises:
        CheckpointError: an unknown ending, a file that cannot be written, a model that cannot be exported, or one
            that holds what was patched apart from it; the attention only of a model with gates folded into its layers.
            The target is then as it was before.
        PlanError: `patched` is no patched model, or its plan has options that cannot be written down.

    """
    target = must_be_path("the file to save to", path, CheckpointError)
    suffix = checked_suffix(target)
    if not force and target.exists():
        raise CheckpointError(f"{target} exists: pass force to overwrite it")
    patched = taken_out(patched)
    must_not_be_optimized(patched)
    attachments = attachments_of(patched)
    injection = vars(patched)["injection"] if attachments else record_of(patched)
    try:
        must_have_what_was_attached(patched)
    except PlanError as error:
        raise CheckpointError(f"the model cannot be saved: {error}") from error
    if not attachments:
        must_be_patched_in_place(patched)
    if attention_only and suffix not in (".pt", ".safetensors"):
        raise CheckpointError(f"attention-only files are .pt or .safetensors, not {suffix}")
    folding = folding_of(patched)
    if attention_only and folding is not None and folding.folded:
        raise CheckpointError(
            "gates were folded into the model's layers, which no attention-only file holds: save the whole model"
        )
    tensors = attention_state_dict(patched) if attention_only else state_of(patched)
    _must_hold_weights(tensors)
    if suffix in (".pt", ".safetensors"):
        must_be_as_planned(patched)
    kept, aliases = _untied(tensors) if suffix == ".safetensors" else (tensors, {})
    record = Record(
        plan=injection.plan,
        versions=injection.versions,
        fingerprint=injection.fingerprint,
        attention_only=attention_only,
        training=patched.training,
        frozen=tuple(name for name, p in patched.named_parameters() if not p.requires_grad),
        aliases=aliases,
        verification=injection.verification,
        guards=injection.guards,
        any_size=injection.any_size,
        inputs=inputs_to_plain(*_read_on(patched, injection.plan.scope or "")),
        others=injection.others,
        folding=folding,
    )
    text = record_to_text(record)
    if suffix in (".pt", ".safetensors"):
        write = write_pt if suffix == ".pt" else write_safetensors
        write_atomically(target, lambda temporary: write(temporary, text, kept))
        return
    export = write_pt2 if suffix == ".pt2" else write_onnx
    followed = aside_in_mode(alias(_followed(patched)), "eval")
    inputs = example_inputs_of(followed)
    try:
        write_atomically(target, lambda temporary: export(temporary, text, followed, inputs))
    except CheckpointError:
        forgetful = without_last_run(patched, inputs)
        if forgetful is None:
            raise
        again = aside_in_mode(alias(_followed(forgetful)), "eval")
        write_atomically(target, lambda temporary: export(temporary, text, again, inputs))


def _must_hold_weights(tensors: Mapping[str, Any]) -> None:
    wrong = next((name for name, value in tensors.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None:
        raise CheckpointError(f"the model keeps {wrong} in its state dict, which is no tensor and cannot be saved")
    if any(hasattr(tensor, "full_tensor") for tensor in tensors.values()):
        raise CheckpointError(
            "the model is sharded (fully_shard), and each process has a part of it: load what "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict gives with full_state_dict=True into a "
            "patched model that is not, and save that"
        )
    if any(tensor.is_meta for tensor in tensors.values()):
        raise CheckpointError("the model is on the meta device and has no weights to save")


def _followed(patched: nn.Module) -> nn.Module:
    """What exporters follow: the graph, or, of a model that has none, the model as it is. They may follow more code."""
    try:
        return as_graph(patched)
    except PlanError:
        return patched


def _read_on(patched: nn.Module, scope: str) -> tuple[Inputs, nn.Module]:
    """What the part that was patched last was read on, and the part."""
    part = patched.get_submodule(scope)
    if attachments := attachments_of(patched):
        return attachments[-1].inputs, part
    return inputs_of(patched_parts(patched)[scope].pristine_graph_of("eval")) or NO_INPUTS, part


def _untied(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, aliases): of several names for the same tensor, the first keeps it."""
    first: dict[tuple[Any, ...], str] = {}
    kept: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if identity in first:
            aliases[name] = first[identity]
        else:
            first[identity] = name
            kept[name] = tensor
    return kept, aliases
