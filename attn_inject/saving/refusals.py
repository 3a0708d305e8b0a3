"""What a file is refused for, before what it asks for is imported, fetched, or given memory.

A file is anybody's. Each function here takes the file's path, for the message, and what the file claims; it raises
`CheckpointError` where the claim cannot be believed. What is built for a comparison is built on the meta device, where
it takes no memory. The attention is built so too: `must_trust_attention` comes before `must_not_outgrow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from ..attention.registry import attentions_of, module_for
from ..attention.registry import names as attention_names
from ..attention.specs import split_spec
from ..errors import AttnInjectError, CheckpointError
from ..surgery.faster import holds_optimized
from ..surgery.parameters import state_of
from ..surgery.provenance import fingerprint
from ..surgery.records import records_of
from ..tracing.parts import full_path, patched_parts
from ..types import Insertion, Plan, Source
from ..zoo.building import build
from .record import Record

_TRUST = "pass the model, or trust_source=True"
# How much larger than twice its file a source may be: attention that was replaced is in the source and not in the file.
_SLACK = 10_000_000


def must_trust_attention(path: Path, record: Record) -> None:
    """Refuse to import an attention on a file's word alone; registered ones and the libraries' own need no import.

    Raises:
        CheckpointError: a plan names code of somebody's own.

    """
    known = attention_names()
    for spec in dict.fromkeys(insertion.attention for plan in record.plans for insertion in plan.insertions):
        name, _ = split_spec(spec)
        if ":" in name and not name.startswith("timm:") and name not in known:
            raise CheckpointError(
                f"{path} names the code {name[:200]!r} as its attention, which is not imported from a file's word "
                "alone: use register_attention, or trust_source=True"
            )


def must_not_outgrow(path: Path, record: Record, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse attention that needs more weights than the file has, before any memory is taken for it.

    Raises:
        CheckpointError: it needs more.

    """
    held = _elements(tensors)
    needed = 0
    for plan in record.plans:
        for insertion in plan.insertions:
            if (made := _as_planned(plan, insertion)) is not None:
                needed += _elements(made.state_dict())
            if needed > held:
                raise CheckpointError(f"{path} does not fit: its attention has more weights than the file")


def _as_planned(plan: Plan, insertion: Insertion) -> nn.Module | None:
    """What the plan makes there, without memory; None for what cannot be made so, which is told when it is made."""
    try:
        with torch.device("meta"):
            return module_for(insertion, attentions_of(plan)[insertion.attention])
    except Exception:
        return None


def must_not_be_optimized(patched: nn.Module) -> None:
    """Refuse what `optimize` gave: its layers are folded for inference, which no record tells of.

    Raises:
        CheckpointError: it is, or a part of it is.

    """
    if holds_optimized(patched):
        raise CheckpointError(
            "files do not keep what optimize() gave: save the model that it was made from, and optimize what is loaded"
        )


def must_be_patched_in_place(patched: nn.Module) -> None:
    """Refuse to save a model whose parts were patched before they became its parts: its file could not be loaded.

    Raises:
        CheckpointError: names the part.

    """
    for path, part in patched_parts(patched).items():
        if path != (part.injection.plan.scope or ""):
            raise CheckpointError(
                f"{path or 'the model'} was patched apart from this model, so that a file could not be loaded: "
                f"save it by itself, or patch it in its place with inject(model, ..., scope={path!r})"
            )


def must_be_as_planned(patched: nn.Module) -> None:
    """Refuse to save attention that is not what its plan makes, since `load` makes that: another class, other settings,
    tensors of other names or shapes.

    Raises:
        CheckpointError: names the attention and what differs.

    """
    for part, record in records_of(patched):
        for insertion in record.plan.insertions:
            path = full_path(part, insertion.module)
            made = _as_planned(record.plan, insertion)
            for what, there, planned in _differences(patched.get_submodule(path), made) if made is not None else ():
                raise CheckpointError(
                    f"{path} was changed after it was put in ({what} is {there}, and {planned} as planned), so that a "
                    "file would be of something else: make masks and parametrizations permanent (prune.remove, "
                    "parametrize.remove_parametrizations); what was cut or exchanged is for torch.save, .pt2 or .onnx"
                )


def _differences(held: nn.Module, made: nn.Module) -> Iterator[tuple[str, object, object]]:
    """(what, as it is, as planned)."""
    if not isinstance(held, type(made)):
        yield "its class", type(held).__name__, type(made).__name__
        return
    tensors, planned = state_of(held), state_of(made)
    for name in dict.fromkeys((*tensors, *planned)):
        if _shape(tensors.get(name)) != _shape(planned.get(name)):
            yield name, _shape(tensors.get(name)), _shape(planned.get(name))
    if type(made).__module__.startswith(f"{__name__.partition('.')[0]}."):
        # Of another class nobody knows whether it is a setting, or a count of its calls.
        for name, value in vars(made).items():
            if isinstance(value, (str, int, float, tuple)) and name != "training" and vars(held).get(name) != value:
                yield name, vars(held).get(name), value


def _shape(tensor: object) -> str:
    return "x".join(map(str, tensor.shape)) or "a number" if isinstance(tensor, torch.Tensor) else "not there"


def must_be_known(path: Path, record: Record) -> Source:
    """The source to build; refuse a file that says too little of it.

    Raises:
        CheckpointError: only the caller has the source, or an attention-only file's source had random weights.

    """
    source = record.source
    if source is None or source.kind == "object":
        raise CheckpointError(
            f"{path} was saved from a model that only its maker had: pass it as load(path, model=...)"
        )
    if record.attention_only and source.seed is None and not source.pretrained and source.checkpoint is None:
        raise CheckpointError(f"{path} holds the attention only, of a model with random weights: pass that model")
    return source


def must_trust_source(path: Path, source: Source) -> None:
    """Refuse to import a source on a file's word alone.

    Raises:
        CheckpointError: the source is code of somebody's own.

    """
    if source.kind in ("module", "file"):
        raise CheckpointError(
            f"{path} names the code {source.name[:200]!r} as its source, which is not imported from a file's word "
            f"alone: {_TRUST}"
        )


def must_be_plain(path: Path, source: Source) -> None:
    """Refuse a source that sends its library to files or servers of the file's choosing.

    timm reads `checkpoint_path` and what `pretrained_cfg` names, its older versions with an unpickler that runs code.
    torchvision fetches `weights`.

    Raises:
        CheckpointError: names the argument, or the name that is none of the library's own.

    """
    for name, value in source.args.items():
        reads = any(word in name for word in ("checkpoint", "pretrained", "weights", "cache_dir"))
        if reads and value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{path} names a source with {name}, which reads further files: {_TRUST}")
        if name.startswith("pretrained") and value:
            raise CheckpointError(f"{path} names a source with {name}, which fetches weights: {_TRUST}")
    if ":" in source.name or "/" in source.name:
        raise CheckpointError(f"{path} names {source.name[:60]!r}, which is no model of {source.kind}'s own: {_TRUST}")


def must_not_dwarf(path: Path, source: Source, record: Record, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a source that is another or a far larger model than the file's, before any memory is taken for it.

    Raises:
        CheckpointError: it is for another model.

    """
    try:
        empty = build(source, device="meta")
    except AttnInjectError:
        return  # What cannot be built at all is told when it is built.
    if record.attention_only:
        must_suit(path, empty, record)
        return
    needed, held = _elements(empty.state_dict()), _elements(tensors)
    if needed > 2 * held + _SLACK:
        raise CheckpointError(f"{path} is for another model: its source has {needed:,} weights, and the file {held:,}")


def must_suit(path: Path, original: torch.nn.Module, record: Record) -> None:
    """Refuse to put an attention-only file onto a model that is no copy of the one it came from.

    Raises:
        CheckpointError: the layers have other names or shapes.

    """
    if record.attention_only and fingerprint(original) != record.fingerprint:
        raise CheckpointError(f"{path} is for another model: its layers have other names or shapes")


def must_match(
    path: Path, tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], expected: set[str]
) -> None:
    """Refuse tensors that cannot take the places of the model's `own`, of which those of `expected` are replaced.

    Raises:
        CheckpointError: tensors are missing, left over, or of another shape or kind.

    """
    given = set(tensors)
    for label, names in (("lacks", sorted(expected - given)), ("has unexpected", sorted(given - expected))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            few = ", ".join(name if name.isprintable() and len(name) < 200 else ascii(name[:60]) for name in names[:3])
            raise CheckpointError(f"{path} {label} {few}{more}: it is for another model")
    for name, tensor in tensors.items():
        shapes = tuple(tensor.shape), tuple(own[name].shape)
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{path}: {name} is {str(shapes[0])[:60]}, and the model's is {shapes[1]}")
        if _family(tensor) != _family(own[name]):
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, and the model's {own[name].dtype}")


def _family(tensor: torch.Tensor) -> object:
    """What may not change between a model and its file: floats may be of another width, all else is as it was."""
    return "float" if tensor.is_floating_point() else tensor.dtype


def _elements(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
