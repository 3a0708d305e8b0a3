"""`.safetensors`: the record in the header's metadata, then the tensors.

The header is checked here before the library sees the file: its length against the file, every tensor's shape against
its bytes, no gap, no overlap, nothing past the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .aligned import aligned
from .pt import KEY

_MAX_HEADER = 100 * 2**20
_WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "C64": 8,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


def write_safetensors(path: Path, text: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write record and tensors; tensors that share memory must have been told apart before (`Record.aliases`)."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata={KEY: text})
    except SafetensorError as error:
        # The library reports a failing disk as an error of its own.
        raise OSError(f"safetensors could not write the file ({str(error).splitlines()[0]})") from error


def read_safetensors(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """(record text or None, tensors) of a safetensors file.

    Raises:
        CheckpointError: the file is damaged, or its header claims what it does not hold.

    """
    metadata = check_header(path)
    from safetensors import SafetensorError, safe_open

    moved: dict[tuple[Any, ...], torch.Tensor] = {}
    try:
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            # One at a time: beside the tensors themselves, no more than pages of the file that the system may drop.
            tensors = {name: aligned(file.get_tensor(name), moved) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
    return metadata.get(KEY), tensors


def check_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file whose header is sound. Reads the header only.

    Raises:
        CheckpointError: it is not sound.

    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise CheckpointError(f"{path} is no safetensors file: its header claims {length} bytes of {size}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is no safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header is no table")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: its metadata is malformed")
    spans = sorted(_span(name, entry, path) for name, entry in header.items())
    position = 0
    for begin, end in spans:
        if begin != position:
            raise CheckpointError(f"{path}: its tensors overlap or leave gaps")
        position = end
    if position != size - 8 - length:
        raise CheckpointError(f"{path}: its tensors take {position} bytes of the {size - 8 - length} that are there")
    return metadata


def _span(name: str, entry: Any, path: Path) -> tuple[int, int]:
    try:
        width, shape, (begin, end) = _WIDTHS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        sound = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**62 for n in numbers)
        sound = sound and len(shape) <= 16 and set(entry) == {"dtype", "shape", "data_offsets"}
        sound = sound and math.prod(shape) * width == end - begin
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: the header's entry for {str(name)[:60]!r} is wrong")
    return begin, end
