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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..attention.registry import build as build_attention
from ..attention.registry import names as attention_names
from ..errors import AttnInjectError, CheckpointError
from ..files.atomic import write_atomically
from ..files.pt import must_be_file, read_pt, write_pt
from ..files.safetensors_file import read_safetensors, write_safetensors
from ..surgery.apply import apply_plan
from ..surgery.parameters import attention_state_dict
from ..surgery.provenance import fingerprint
from ..tracing.alias import alias
from ..tracing.injected import InjectedModule, injected_part
from ..tracing.nodes import value_of
from ..types import Plan, Source, Verification
from ..zoo.building import build
from .exported import read_onnx_record, read_pt2_record, write_onnx, write_pt2
from .record import Record, record_from_text, record_to_text

SUFFIXES = (".pt", ".safetensors", ".pt2", ".onnx")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a saved file is, read without building anything.

    `parameters` and `added` count tensor elements (state-dict entries; `added` those of new modules), `bytes` is the
    file's size, `dtypes` the number of tensors by type. For `.pt2` and `.onnx` only the plan is read.
    """

    path: str
    format: str
    plan: Plan
    versions: Mapping[str, str]
    verification: Verification | None
    attention_only: bool
    tensors: int
    elements: int
    added: int
    bytes: int
    dtypes: Mapping[str, int]

    @property
    def source(self) -> Source | None:
        return self.plan.source


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
        CheckpointError: an unknown ending, a file that cannot be written, or a model that cannot be exported. The
            target is then as it was before.
        PlanError: `patched` is no patched model, or its plan has options that cannot be written down.

    """
    target = Path(path)
    suffix = checked_suffix(target)
    if not force and target.exists():
        raise CheckpointError(f"{target} exists: pass force to overwrite it")
    inner, _ = injected_part(patched)
    injection = inner.injection
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
        injection.plan, injection.versions, injection.fingerprint, attention_only, patched.training,
        tuple(name for name, p in patched.named_parameters() if not p.requires_grad), aliases, injection.verification,
    )  # fmt: skip
    text = record_to_text(record)
    if suffix in (".pt", ".safetensors"):
        write = write_pt if suffix == ".pt" else write_safetensors
        write_atomically(target, lambda temporary: write(temporary, text, kept))
        return
    export = write_pt2 if suffix == ".pt2" else write_onnx
    twin = alias(patched).eval()
    inputs = _example(inner)
    write_atomically(target, lambda temporary: export(temporary, text, twin, inputs))


def checked_suffix(path: Path) -> str:
    """The ending of a file to write or read.

    Raises:
        CheckpointError: an ending that names no format; lists those that do.

    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{path.name}: the ending picks the format, and must be one of {', '.join(SUFFIXES)}")
    return suffix


def load(path: str | Path, model: nn.Module | None = None, *, trust_source: bool = False) -> InjectedModule:
    """The patched model of a `.pt` or `.safetensors`, equal to the bit to the one that was saved.

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
    >>> torch.equal(loaded(x), patched(x))
    True

    Args:
        model: the original model, for sources that only the caller has; it is left as it was.
        trust_source: whether to import what the file names as code of somebody's own: a `package.module:factory` or
            `file.py` as its source, a `package.module:Class` as its attention (`register_attention` is the other way);
            and to build a source whose name or arguments make timm or torchvision read further files.

    Raises:
        CheckpointError: a file that is damaged, of another format, or for another model; or a source that needs `model`
            or `trust_source`.

    """
    target = Path(path)
    record, tensors = _read(target)
    _must_trust_attention(target, record, trust_source)
    _must_not_outgrow(target, record, tensors)
    original = model if model is not None else _rebuilt(target, record, tensors, trust_source)
    if record.attention_only and fingerprint(original) != record.fingerprint:
        raise CheckpointError(f"{target} is for another model: its layers have other names or shapes")
    try:
        patched = apply_plan(original, record.plan, check=False)
    except AttnInjectError as error:
        raise CheckpointError(f"{target} does not fit the model: {_line(error)}") from error
    _put(patched, tensors, record, target)
    inner, _ = injected_part(patched)
    inner.injection = replace(inner.injection, verification=record.verification)
    patched.train(record.training)
    return patched


def inspect(path: str | Path) -> CheckpointInfo:
    """What a file is: source, plan, versions, tensors. No code from it runs and no model is built.

    Raises:
        CheckpointError: the file is damaged or was not written by attn-inject.

    """
    target = Path(path)
    suffix = checked_suffix(target)
    tensors: dict[str, torch.Tensor] = {}
    if suffix in (".pt", ".safetensors"):
        record, tensors = _read(target)
    else:
        must_be_file(target)
        read: Callable[[Path], str] = read_pt2_record if suffix == ".pt2" else read_onnx_record
        record = record_from_text(read(target), target)
    new = tuple(f"{insertion.module}." for insertion in record.plan.insertions)
    scope = f"{record.plan.scope}." if record.plan.scope else ""
    dtypes: dict[str, int] = {}
    for tensor in tensors.values():
        name = str(tensor.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    return CheckpointInfo(
        str(target),
        suffix,
        record.plan,
        record.versions,
        record.verification,
        record.attention_only,
        len(tensors),
        sum(t.numel() for t in tensors.values()),
        sum(t.numel() for name, t in tensors.items() if name.removeprefix(scope).startswith(new)),
        target.stat().st_size,
        dtypes,
    )


def _read(path: Path) -> tuple[Record, dict[str, torch.Tensor]]:
    suffix = checked_suffix(path)
    must_be_file(path)
    if suffix in (".pt2", ".onnx"):
        raise CheckpointError(f"{path} is an export for other programs to run: load a .pt or .safetensors instead")
    text: str | None
    text, tensors = read_pt(path) if suffix == ".pt" else read_safetensors(path)
    if text is None:
        raise CheckpointError(f"{path} holds tensors but no plan: --checkpoint reads plain weights")
    record = record_from_text(text, path)
    for name, twin in record.aliases.items():
        if twin not in tensors or name in tensors:
            raise CheckpointError(f"{path}: the shared tensor {name[:60]!r} points nowhere")
        tensors[name] = tensors[twin]
    return record, tensors


def _must_trust_attention(path: Path, record: Record, trust_source: bool) -> None:
    """Refuse to import an attention on a file's word alone; registered ones and the libraries' own need no import."""
    known = attention_names()
    for name in dict.fromkeys(insertion.attention for insertion in record.plan.insertions):
        if ":" in name and not name.startswith("timm:") and name not in known and not trust_source:
            raise CheckpointError(
                f"{path} names the code {name[:200]!r} as its attention, which is not imported from a file's word "
                "alone: use register_attention, or trust_source=True"
            )


def _must_not_outgrow(path: Path, record: Record, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse attention that needs more weights than the file has, before any memory is taken for it."""
    held = sum(tensor.numel() for tensor in tensors.values())
    needed = 0
    for insertion in record.plan.insertions:
        try:
            with torch.device("meta"):
                module = build_attention(
                    insertion.attention, insertion.channels, ndim=len(insertion.site.size), options=insertion.options
                )
            needed += sum(tensor.numel() for tensor in module.state_dict().values())
        except Exception:
            # What cannot be made at all is told when it is made.
            continue
        if needed > held:
            raise CheckpointError(f"{path} does not fit: its attention has more weights than the file")


def _must_be_plain(path: Path, source: Source) -> None:
    """Refuse a source that sends its library to files or servers of the file's choosing.

    timm reads `checkpoint_path` and what `pretrained_cfg` names, its older versions with an unpickler that runs code.
    torchvision fetches `weights`.
    """
    for name, value in source.args.items():
        reads = any(word in name for word in ("checkpoint", "pretrained", "weights", "cache_dir"))
        if reads and value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{path} names a source with {name}, which reads further files: " + _TRUST)
        if name.startswith("pretrained") and value:
            raise CheckpointError(f"{path} names a source with {name}, which fetches weights: " + _TRUST)
    if ":" in source.name or "/" in source.name:
        raise CheckpointError(f"{path} names {source.name[:60]!r}, which is no model of {source.kind}'s own: " + _TRUST)


_TRUST = "pass the model, or trust_source=True"
# How much larger than twice its file a source may be: attention that was replaced is in the source and not in the file.
_SLACK = 10_000_000


def _must_not_dwarf(path: Path, source: Source, record: Record, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a source that is another or a far larger model than the file's, before any memory is taken for it."""
    try:
        twin = build(source, device="meta")
    except AttnInjectError:
        return  # What cannot be built at all is told when it is built.
    if record.attention_only:
        if fingerprint(twin) != record.fingerprint:
            raise CheckpointError(f"{path} is for another model: its layers have other names or shapes")
        return
    needed, held = (sum(t.numel() for t in all_.values()) for all_ in (twin.state_dict(), tensors))
    if needed > 2 * held + _SLACK:
        raise CheckpointError(f"{path} is for another model: its source has {needed:,} weights, and the file {held:,}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _rebuilt(path: Path, record: Record, tensors: Mapping[str, torch.Tensor], trust_source: bool) -> nn.Module:
    source = record.plan.source
    if source is None or source.kind == "object":
        raise CheckpointError(
            f"{path} was saved from a model that only its maker had: pass it as load(path, model=...)"
        )
    if source.kind in ("module", "file") and not trust_source:
        raise CheckpointError(
            f"{path} names the code {source.name[:200]!r} as its source, which is not imported from a file's word "
            f"alone: {_TRUST}"
        )
    if record.attention_only and source.seed is None and not source.pretrained and source.checkpoint is None:
        raise CheckpointError(f"{path} holds the attention only, of a model with random weights: pass that model")
    # Where the file has all weights, nothing need be downloaded or read for them.
    wanted = source if record.attention_only else replace(source, checkpoint=None)
    try:
        if not trust_source:
            _must_be_plain(path, wanted)
            _must_not_dwarf(path, wanted, record, tensors)
        return build(wanted, fetch=record.attention_only)
    except CheckpointError:
        raise
    except AttnInjectError as error:
        raise CheckpointError(f"{path} names a source that cannot be built: {_line(error)}") from error


def _put(patched: nn.Module, tensors: Mapping[str, torch.Tensor], record: Record, path: Path) -> None:
    """Let the saved tensors be the model's, in their own dtype and memory format."""
    own: dict[str, Any] = patched.state_dict(keep_vars=True)
    expected = set(attention_state_dict(patched)) if record.attention_only else set(own)
    _must_match(expected, set(tensors), path)
    for name, tensor in tensors.items():
        shapes = tuple(tensor.shape), tuple(own[name].shape)
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{path}: {name} is {str(shapes[0])[:60]}, and the model's is {shapes[1]}")
        if _family(tensor) != _family(own[name]):
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, and the model's {own[name].dtype}")
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
            parameter.requires_grad_(name not in frozen)


def _family(tensor: torch.Tensor) -> object:
    """What may not change between a model and its file: floats may be of another width, all else is as it was."""
    return "float" if tensor.is_floating_point() else tensor.dtype


def _must_match(expected: set[str], given: set[str], path: Path) -> None:
    for label, names in (("lacks", sorted(expected - given)), ("has unexpected", sorted(given - expected))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            few = ", ".join(name if name.isprintable() and len(name) < 200 else ascii(name[:60]) for name in names[:3])
            raise CheckpointError(f"{path} {label} {few}{more}: it is for another model")


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


def _example(inner: InjectedModule) -> tuple[Any, ...]:
    """Real inputs of the shapes that the model was traced with, on its device and in its precision.

    The model may have been made `half()` since; an export for inputs of the old precision could not be run.
    """
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    precisions = {p.dtype for p in inner.parameters() if p.is_floating_point()}
    own = precisions.pop() if len(precisions) == 1 else None
    values = [value_of(node) for node in inner.graph_of("eval").nodes if node.op == "placeholder"]
    if any(value is None for value in values):
        raise CheckpointError("the model was never traced with shapes: inject into it again before exporting it")
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(value.shape, generator=generator).to(
            device=device, dtype=own if own is not None and value.is_floating_point() else value.dtype
        )
        if isinstance(value, torch.Tensor)
        else value
        for value in values
    )
