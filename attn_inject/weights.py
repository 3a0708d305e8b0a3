"""Weights from a file into a model: `--checkpoint`.

Reads `.pt`, `.pth`, `.bin` and `.safetensors`: plain state dicts and the usual wrappers around them, `weights_only` and
behind the checks of `files`. A mismatch is an error, never a partial load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import CheckpointError, SourceError
from .files.pt import load_checked
from .files.safetensors_file import read_safetensors

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "net", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_weights(model: nn.Module, path: str | Path) -> str:
    """Load the file's weights into `model`, strictly; returns one line that says what matched.

    Raises:
        SourceError: the file cannot be read, or its names or shapes are not the model's.

    """
    file = Path(path)
    if not file.is_file():
        raise SourceError(f"cannot read the checkpoint {file}: there is no such file")
    try:
        content: Any = read_safetensors(file)[1] if file.suffix.lower() == ".safetensors" else load_checked(file)
    except CheckpointError as error:
        raise SourceError(str(error)) from error
    wrapper = ""
    while isinstance(content, dict) and (
        inner := next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
    ):
        content, wrapper = content[inner], f" (its {inner!r})"
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise SourceError(f"the checkpoint {file} holds no state dict")
    wanted = model.state_dict()
    for prefix in _PREFIXES:
        if not set(tensors) & set(wanted) and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    _must_fit(wanted, tensors, file)
    model.load_state_dict(tensors)
    return f"{len(tensors)} of {len(wanted)} tensors from {file.name}{wrapper}"


def _must_fit(wanted: dict[str, Any], tensors: dict[str, torch.Tensor], file: Path) -> None:
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    reshaped = [name for name in tensors if name in wanted and tensors[name].shape != wanted[name].shape]
    problems = [
        f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("lacks", missing), ("has unexpected", unexpected), ("has other shapes for", reshaped))
        if names
    ]
    if problems:
        matched = len(wanted) - len(missing) - len(reshaped)
        raise SourceError(
            f"the checkpoint {file} does not fit ({matched} of {len(wanted)} tensors match): "
            f"it {'; it '.join(problems)}"
        )
