"""The formats by the endings of files, and what is in a file that can be loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import CheckpointError
from ..files.pt import must_be_file, read_pt
from ..files.safetensors_file import read_safetensors
from .record import Record, record_from_text

SUFFIXES = (".pt", ".safetensors", ".pt2", ".onnx")


def checked_suffix(path: Path) -> str:
    """The ending of a file to write or read.

    Raises:
        CheckpointError: an ending that names no format; lists those that do.

    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: the ending picks the format, and must be one of {', '.join(SUFFIXES)}")
    return suffix


def read_file(path: Path) -> tuple[Record, dict[str, torch.Tensor]]:
    """The record and the tensors of a `.pt` or `.safetensors`, each tensor under all its names.

    Raises:
        CheckpointError: an export, plain weights, or a file that is damaged.

    """
    suffix = checked_suffix(path)
    must_be_file(path)
    if suffix in (".pt2", ".onnx"):
        raise CheckpointError(f"{path} is an export for other programs to run: load a .pt or .safetensors instead")
    text: str | None
    text, tensors = read_pt(path) if suffix == ".pt" else read_safetensors(path)
    if text is None:
        raise CheckpointError(f"{path} holds tensors but no plan: --checkpoint reads plain weights")
    record = record_from_text(text, path)
    for name, first in record.aliases.items():
        if first not in tensors or name in tensors:
            raise CheckpointError(f"{path}: the shared tensor {name[:60]!r} points nowhere")
        tensors[name] = tensors[first]
    return record, tensors
