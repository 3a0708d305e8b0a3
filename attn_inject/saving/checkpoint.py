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
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from ..errors import AttnInjectError, CheckpointError, PlanError, nearest
from ..files.atomic import write_atomically
from ..files.pt import write_pt
from ..files.safetensors_file import write_safetensors
from ..surgery.apply import apply_plan, read_for
from ..surgery.attach import attach_plan
from ..surgery.attachment import attachments_of
from ..surgery.forms import as_graph
from ..surgery.parameters import attention_state_dict
from ..tracing.alias import alias
from ..tracing.explain import CodeError
from ..tracing.injected import InjectedModule
from ..tracing.inputs import NO_INPUTS, Inputs, inputs_of
from ..tracing.parts import patched_parts, record_of
from ..types import FORMS, Form
from ..zoo.building import build
from .examples import example_inputs_of
from .exported import write_onnx, write_pt2
from .formats import checked_suffix, read_file
from .inputs import inputs_from_plain, inputs_to_plain
from .record import Record, record_to_text
from .refusals import (
    must_be_known,
    must_be_plain,
    must_be_whole,
    must_match,
    must_not_dwarf,
    must_not_outgrow,
    must_suit,
    must_trust_attention,
    must_trust_source,
)


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
            that holds what was patched apart from it. The target is then as it was before.
        PlanError: `patched` is no patched model, or its plan has options that cannot be written down.

    """
    target = Path(path)
    suffix = checked_suffix(target)
    if not force and target.exists():
        raise CheckpointError(f"{target} exists: pass force to overwrite it")
    attachments = attachments_of(patched)
    injection = vars(patched)["injection"] if attachments else record_of(patched)
    if not attachments:
        must_be_whole(patched)
    if attention_only and suffix not in (".pt", ".safetensors"):
        raise CheckpointError(f"attention-only files are .pt or .safetensors, not {suffix}")
    tensors = attention_state_dict(patched) if attention_only else patched.state_dict()
    wrong = next((name for name, value in tensors.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None:
        raise CheckpointError(f"the model keeps {wrong} in its state dict, which is no tensor and cannot be saved")
    if any(tensor.is_meta for tensor in tensors.values()):
        raise CheckpointError("the model is on the meta device and has no weights to save")
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
        inputs=inputs_to_plain(_read_on(patched, injection.plan.scope)),
        others=injection.others,
    )
    text = record_to_text(record)
    if suffix in (".pt", ".safetensors"):
        write = write_pt if suffix == ".pt" else write_safetensors
        write_atomically(target, lambda temporary: write(temporary, text, kept))
        return
    export = write_pt2 if suffix == ".pt2" else write_onnx
    aliased = alias(as_graph(patched)).eval()
    inputs = example_inputs_of(aliased)
    write_atomically(target, lambda temporary: export(temporary, text, aliased, inputs))


def _read_on(patched: nn.Module, scope: str | None) -> Inputs:
    """What the part that was patched last was read on."""
    if attachments := attachments_of(patched):
        return attachments[-1].inputs
    return inputs_of(patched_parts(patched)[scope or ""].pristine_graph_of("eval")) or NO_INPUTS


@overload
def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    form: Literal["graph"] = "graph",
    example_inputs: Any = None,
    trust_source: bool = False,
) -> InjectedModule: ...


@overload
def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    form: Literal["module"],
    example_inputs: Any = None,
    trust_source: bool = False,
) -> nn.Module: ...


def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    form: Form = "graph",
    example_inputs: Any = None,
    trust_source: bool = False,
) -> nn.Module:
    """The patched model of a `.pt` or `.safetensors`, equal to the bit to the one that was saved.

    A file does not know which form it was saved from: `form` is "graph" for what `inject` makes of the source, "module"
    for what `attach` does.

    The source is built anew and patched by the saved plan; then the saved tensors take their places. No code from the
    file runs. Nothing is downloaded, but for an attention-only file the weights of a pretrained source.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from attn_inject import inject, load, save
    >>> from attn_inject.zoo.cifar import models
    >>> model, x = models()["resnet20"]().eval(), torch.randn(1, 3, 32, 32)
    >>> patched = inject(model, "eca")
    >>> with TemporaryDirectory() as folder:
    ...     save(patched, Path(folder) / "net.pt")
    ...     loaded = load(Path(folder) / "net.pt", model)
    ...     attached = load(Path(folder) / "net.pt", model, form="module")
    >>> torch.equal(loaded(x), patched(x)), torch.equal(attached(x), patched(x)), type(attached) is type(model)
    (True, True, True)

    Args:
        model: the original model, for sources that only the caller has; it is left as it was.
        example_inputs: other sizes than those that the model was saved with, as for `inject`; where several submodules
            were patched, a dict with those of each, by its path.
        trust_source: whether to import what the file names as code of somebody's own: a `package.module:factory` or
            `file.py` as its source, a `package.module:Class` as its attention (`register_attention` is the other way);
            and to build a source whose name or arguments make timm or torchvision read further files.

    Raises:
        CheckpointError: a file that is damaged, of another format, or for another model; or a source that needs `model`
            or `trust_source`.
        PlanError: another form than the two.

    """
    if form not in FORMS:
        raise PlanError(f"form must be one of {', '.join(FORMS)}; got {form!r}{nearest(str(form), FORMS)}")
    target = Path(path)
    record, tensors = read_file(target)
    if not trust_source:
        must_trust_attention(target, record)
    must_not_outgrow(target, record, tensors)
    original = model if model is not None else _rebuilt(target, record, tensors, trust_source=trust_source)
    must_suit(target, original, record)
    if example_inputs is None and record.inputs is not None and not record.others:
        example_inputs = inputs_from_plain(record.inputs)
    make = _patched if form == "graph" else _attached
    patched = make(target, original, record, example_inputs)
    _put(patched, tensors, record, target)
    return patched.train(mode=record.training)


def _attached(path: Path, original: nn.Module, record: Record, example_inputs: Any) -> nn.Module:
    """Carry out the record's plans in the model's own classes."""
    given = _inputs_by_part(path, record, example_inputs)
    attached = original
    for plan in record.plans:
        try:
            attached = attach_plan(read_for(attached, plan, given.get(plan.scope or ""), may_record=True), plan)
        except AttnInjectError as error:
            raise CheckpointError(f"{path} does not fit the model: {_line(error)}") from error
    return attached


def _patched(path: Path, original: nn.Module, record: Record, example_inputs: Any) -> nn.Module:
    """Carry out the record's plans, one after the other, each of which knows what was verified."""
    given = _inputs_by_part(path, record, example_inputs)
    verifications = [*(other.verification for other in record.others), record.verification]
    patched = original
    for plan, verification in zip(record.plans, verifications, strict=True):
        scope = plan.scope or ""
        try:
            patched = apply_plan(patched, plan, example_inputs=given.get(scope), check=False)
        except CodeError as error:
            raise CheckpointError(
                f"{path} is of a model that has no graph: load it with form='module' ({_line(error)})"
            ) from error
        except AttnInjectError as error:
            raise CheckpointError(f"{path} does not fit the model: {_line(error)}") from error
        part = patched_parts(patched)[scope]
        part.injection = replace(part.injection, verification=verification)
    if patched_parts(patched).keys() != {""}:
        vars(patched)["injection"] = record_of(patched)
    return patched


def _inputs_by_part(path: Path, record: Record, example_inputs: Any) -> Mapping[str, Any]:
    if example_inputs is None or not record.others:
        return {record.plan.scope or "": example_inputs}
    scopes = [plan.scope or "" for plan in record.plans]
    if not isinstance(example_inputs, Mapping) or not set(example_inputs) <= set(scopes):
        raise CheckpointError(
            f"{path} has several patched parts: pass example_inputs as a dict with those of each, by its path "
            f"({', '.join(scopes)})"
        )
    return example_inputs


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _rebuilt(path: Path, record: Record, tensors: Mapping[str, torch.Tensor], *, trust_source: bool) -> nn.Module:
    source = must_be_known(path, record)
    # Where the file has all weights, nothing need be downloaded or read for them.
    wanted = source if record.attention_only else replace(source, checkpoint=None)
    if not trust_source:
        must_trust_source(path, wanted)
        must_be_plain(path, wanted)
        must_not_dwarf(path, wanted, record, tensors)
    try:
        return build(wanted, fetch=record.attention_only)
    except AttnInjectError as error:
        raise CheckpointError(f"{path} names a source that cannot be built: {_line(error)}") from error


def _put(patched: nn.Module, tensors: Mapping[str, torch.Tensor], record: Record, path: Path) -> None:
    """Let the saved tensors be the model's, in their own dtype and memory format."""
    own: dict[str, Any] = patched.state_dict(keep_vars=True)
    expected = set(attention_state_dict(patched)) if record.attention_only else set(own)
    must_match(path, tensors, own, expected)
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(floating) == 1 and not record.attention_only:
        # Buffers that no state dict holds follow the model's type.
        patched.to(floating.pop())
        own = patched.state_dict(keep_vars=True)
    homes = dict(patched.named_modules())
    for name, tensor in tensors.items():
        held = own[name]
        if isinstance(held, nn.Parameter):
            held.data = tensor.to(held.device)
        else:
            home, _, attribute = name.rpartition(".")
            homes[home]._buffers[attribute] = tensor.to(held.device)
    frozen = set(record.frozen)
    for name, parameter in patched.named_parameters():
        if name in tensors or not record.attention_only:
            parameter.requires_grad = name not in frozen


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
