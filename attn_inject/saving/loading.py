"""The way back from a file: the source is built anew, patched by the saved plan, and given the saved tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from ..errors import AttnInjectError, CheckpointError, PlanError, RewriteError, must_be_path, nearest
from ..surgery.apply import apply_plan
from ..surgery.attach import attach_as_planned
from ..surgery.attachment import attachments_of
from ..surgery.parameters import attention_state_dict, state_of
from ..tracing.explain import CodeError
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, dtype_of
from ..tracing.parts import patched_parts, record_of
from ..tracing.restoring import in_mode
from ..types import FORMS, Form, Verification
from ..zoo.building import build
from .formats import read_file
from .inputs import inputs_from_plain
from .record import Record
from .refusals import (
    must_be_known,
    must_be_plain,
    must_match,
    must_not_dwarf,
    must_not_outgrow,
    must_suit,
    must_trust_attention,
    must_trust_source,
)


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
        model: the original model, for sources that only the caller has; it is left as it was. On the meta device it
        needs no weights: the result has those of the file.
        example_inputs: other sizes than those that the model was saved with, as for `inject`; where several submodules
            were patched, a dict with those of each, by its path. A model that runs on certain whole numbers alone
            (lengths of sequences) and has no graph needs them here too: files keep sizes.
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
    target = must_be_path("the file to load", path, CheckpointError)
    record, tensors = read_file(target)
    if not trust_source:
        must_trust_attention(target, record)
    must_not_outgrow(target, record, tensors)
    original = model if model is not None else _rebuilt(target, record, tensors, trust_source=trust_source)
    must_suit(target, original, record)
    if example_inputs is None and record.inputs is not None and not record.others:
        # The model may be in another type than it was read in.
        example_inputs = inputs_from_plain(record.inputs).in_type(dtype_of(original))
    make = _patched if form == "graph" else _attached
    patched = make(target, original, record, example_inputs)
    _put(patched, tensors, record, target)
    if record.folding is not None:
        vars(patched)["folding"] = record.folding
    return in_mode(patched, "train" if record.training else "eval")  # type: ignore[no-any-return]


def _on_numbers(inputs: Any) -> str:
    """What to do for a model that may mind which whole numbers it is given; empty where `inputs` are not the file's."""
    if isinstance(inputs, Inputs) and any(each.is_meta and not each.is_floating_point() for each in inputs.tensors):
        return "; a file keeps the sizes of inputs and not their numbers: give load() example_inputs that have those"
    return ""


def _attached(path: Path, original: nn.Module, record: Record, example_inputs: Any) -> nn.Module:
    """Carry out the record's plans in the model's own classes."""
    given = _inputs_by_part(path, record, example_inputs)
    attached = original
    for plan in record.plans:
        if not plan.insertions:
            raise CheckpointError(f"{path} has a part without attention of ours in it: load it with form='graph'")
        try:
            attached = attach_as_planned(attached, plan, given.get(plan.scope or ""))
        except AttnInjectError as error:
            hint = _on_numbers(example_inputs)
            raise CheckpointError(f"{path} does not fit the model: {_line(error)}{hint}") from error
        made = attachments_of(attached)[-1].injection.plan
        left_out = [note for note in made.notes if note.startswith("left out: ") and note not in plan.notes]
        if made.insertions != plan.insertions:
            raise CheckpointError(
                f"{path} has attention that attach() cannot put in: load it with form='graph' ({'; '.join(left_out)})"
            )
    return attached


def _patched(path: Path, original: nn.Module, record: Record, example_inputs: Any) -> nn.Module:
    """Carry out the record's plans, one after the other, each of which knows what was verified."""
    given = _inputs_by_part(path, record, example_inputs)
    verifications = [*(other.verification for other in record.others), record.verification]
    patched = original
    for plan, verification in zip(record.plans, verifications, strict=True):
        scope = plan.scope or ""
        try:
            patched = apply_plan(patched, plan, example_inputs=given.get(scope), check=not _is_of_a_graph(verification))
        except RewriteError as error:
            raise CheckpointError(
                f"{path} is of a model whose graph is not what its code does: load it with form='module' "
                f"({_line(error)})"
            ) from error
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


def _is_of_a_graph(verification: Verification | None) -> bool:
    """Whether a graph was held against the model's own code before the file was written."""
    return verification is not None and any(check.name == "trace" and check.passed for check in verification.checks)


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
    own: dict[str, Any] = state_of(patched, keep_vars=True)
    expected = set(attention_state_dict(patched)) if record.attention_only else set(own)
    must_match(path, tensors, own, expected)
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(floating) == 1 and not record.attention_only:
        # Buffers that no state dict holds follow the model's type.
        patched.to(floating.pop())
        own = state_of(patched, keep_vars=True)
    # A module may have several names, and its values one for each.
    homes = dict(patched.named_modules(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}
    for name, tensor in tensors.items():
        held = own[name]
        home, _, attribute = name.rpartition(".")
        if held.is_meta and isinstance(held, nn.Parameter):
            # Nothing holds its values yet; of several names for one parameter all get the same.
            homes[home]._parameters[attribute] = made.setdefault(id(held), nn.Parameter(tensor))
        elif isinstance(held, nn.Parameter):
            held.data = tensor.to(held.device)
        else:
            homes[home]._buffers[attribute] = tensor if held.is_meta else tensor.to(held.device)
    left = [name for name, held in (*patched.named_parameters(), *patched.named_buffers()) if held.is_meta]
    if left and any(not held.is_meta for held in tensors.values()):
        raise CheckpointError(f"the model is on the meta device, and {path} has no {left[0]}: pass one with weights")
    frozen = set(record.frozen)
    for name, parameter in patched.named_parameters():
        if name in tensors or not record.attention_only:
            parameter.requires_grad = name not in frozen
