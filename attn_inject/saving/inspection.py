"""What a saved file is, read without building anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError, must_be_path
from ..files.pt import must_be_file
from ..surgery.folding import Folding
from ..tracing.parts import full_path
from ..types import Guard, Injection, Plan, Source, Verification
from .exported import read_onnx_record, read_pt2_record
from .formats import checked_suffix, read_file
from .inputs import described
from .record import record_from_text


@dataclass(frozen=True)
class CheckpointInfo:
    """One saved file.

    `parameters` and `added` count tensor elements (state-dict entries; `added` those of new modules), `bytes` is the
    file's size, `dtypes` the number of tensors by type. `inputs` are what a model with several, named or structured
    inputs was traced on, batch included, such as `mask 2x1x64x64 bool`. For `.pt2` and `.onnx` only the plan is read.
    Where several submodules were patched, `plan` and what was verified are those of the last one, and `others` those of
    the rest. `folding` is what was folded into the model's layers.
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
    guards: tuple[Guard, ...] = ()
    any_size: bool = True
    inputs: tuple[str, ...] = ()
    source: Source | None = None
    others: tuple[Injection, ...] = ()
    folding: Folding | None = None

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of all patched parts, that of the last one last."""
        return (*(other.plan for other in self.others), self.plan)


def inspect(path: str | Path) -> CheckpointInfo:
    """What a file is: source, plan, versions, tensors. No code from it runs and no model is built.

    Raises:
        CheckpointError: the file is damaged or was not written by attn-inject.

    """
    target = must_be_path("the file to inspect", path, CheckpointError)
    suffix = checked_suffix(target)
    tensors: dict[str, torch.Tensor] = {}
    if suffix in (".pt", ".safetensors"):
        record, tensors = read_file(target)
    else:
        must_be_file(target)
        read: Callable[[Path], str] = read_pt2_record if suffix == ".pt2" else read_onnx_record
        record = record_from_text(read(target), target)
    new = tuple(
        f"{full_path(plan.scope or '', insertion.module)}." for plan in record.plans for insertion in plan.insertions
    )
    dtypes: dict[str, int] = {}
    for tensor in tensors.values():
        name = str(tensor.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    return CheckpointInfo(
        path=str(target),
        format=suffix,
        plan=record.plan,
        versions=record.versions,
        verification=record.verification,
        attention_only=record.attention_only,
        tensors=len(tensors),
        elements=sum(t.numel() for t in tensors.values()),
        added=sum(t.numel() for name, t in tensors.items() if name.startswith(new)),
        bytes=target.stat().st_size,
        dtypes=dtypes,
        guards=record.guards,
        any_size=record.any_size,
        inputs=described(record.inputs) if record.inputs is not None else (),
        source=record.source,
        others=record.others,
        folding=record.folding,
    )
