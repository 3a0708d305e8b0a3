"""Weights from a file into a model: `--checkpoint`.

Reads `.pt`, `.pth`, `.bin` and `.safetensors`: plain state dicts and the usual wrappers around them, `weights_only` and
behind the checks of `files`. A mismatch is an error, never a partial load.

1. A table whose names fit the model better than those inside it is the state dict, whatever stands beside its tensors.
2. Otherwise the first wrapper of `_WRAPPERS` in it is looked into, and so on.
3. What wrapping classes put in front of every name, or behind it, is taken off where that makes more names fit.
4. Then names and shapes must be the model's. `num_batches_tracked`, which old files lack, stays as it is in the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, SourceError
from ..files.pt import load_checked, must_be_file
from ..files.safetensors_file import read_safetensors

# Averaged weights are what a training with both is evaluated with.
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
)
_DEPTH = 8
# DataParallel and DDP; torch.compile; Lightning and others.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_COUNTER = "num_batches_tracked"

Tensors = dict[str, torch.Tensor]


def load_weights(model: nn.Module, path: str | Path) -> str:
    """Load the file's weights into `model`, strictly; returns one line that says what matched.

    Raises:
        SourceError: the file cannot be read, or its names, shapes or types are not the model's. The model is then as it
            was.

    """
    file = Path(path)
    try:
        must_be_file(file)
        content: Any = read_safetensors(file)[1] if file.suffix.lower() == ".safetensors" else load_checked(file)
    except CheckpointError as error:
        raise SourceError(f"the checkpoint cannot be used: {error}") from error
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors, where = _state_dict(content, wanted)
    if not tensors:
        raise SourceError(f"the checkpoint {file} holds no state dict")
    counters = [name for name in wanted if _is_counter(name) and name not in tensors]
    # Frozen norms have no counter, and the files of the norms they were have.
    tensors = {name: tensor for name, tensor in tensors.items() if name in wanted or not _is_spare(name, wanted)}
    _must_fit(wanted, tensors, [name for name in wanted if name not in tensors and name not in counters], file)
    # Not strict: names were checked, and what is no tensor (`get_extra_state`) is the model's own business.
    model.load_state_dict({**{name: wanted[name] for name in counters}, **tensors}, strict=False)
    kept = f"; {len(counters)} {_COUNTER} as they were" if counters else ""
    return f"{len(tensors)} of {len(wanted)} tensors from {file.name}{where}{kept}"


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


def _is_spare(name: str, wanted: Mapping[str, torch.Tensor]) -> bool:
    return _is_counter(name) and name.removesuffix(_COUNTER) + "running_mean" in wanted


def _state_dict(content: Any, wanted: Mapping[str, torch.Tensor]) -> tuple[Tensors, str]:
    """(tensors under the model's names, words on where in the file they were)."""
    keys: list[str] = []
    best: tuple[Tensors, str] = {}, ""
    while isinstance(content, dict) and len(keys) <= _DEPTH:
        found = {name: value for name, value in content.items() if isinstance(name, str) and _is_tensor(value)}
        tensors, taken = _renamed(found, wanted)
        before = _fitting(best[0], wanted)
        if tensors and (not before or _fitting(tensors, wanted) > before):
            inside = f" (its {'.'.join(keys)!r})" if keys else ""
            best = tensors, inside + (f", without the prefix {taken!r}" if taken else "")
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        keys.append(inner)
        content = content[inner]
    return best


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _fitting(tensors: Tensors, wanted: Mapping[str, torch.Tensor]) -> int:
    return sum(name in wanted for name in tensors)


def _renamed(tensors: Tensors, wanted: Mapping[str, torch.Tensor]) -> tuple[Tensors, str]:
    """The tensors without what wrappers put in front of their names, and what that was.

    A prefix goes where every name has it and more names fit the model without it. A model may have a submodule called
    `model` itself; then its own names fit already.
    """
    taken = ""
    while True:
        prefix = next((p for p in _PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            # torch.compile and DDP of a part of the model: the word stands inside the names, or before some of them.
            inner = {_inner(name): tensor for name, tensor in tensors.items()}
            whole = len(inner) == len(tensors)
            if whole and _fitting(inner, wanted) > _fitting(tensors, wanted):
                return inner, taken or "_orig_mod."
            return tensors, taken
        shorter = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if _fitting(tensors, wanted) and _fitting(shorter, wanted) <= _fitting(tensors, wanted):
            return tensors, taken
        tensors, taken = shorter, taken + prefix


def _inner(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _must_fit(wanted: Mapping[str, torch.Tensor], tensors: Tensors, missing: list[str], file: Path) -> None:
    unexpected = [name for name in tensors if name not in wanted]
    shared = [name for name in tensors if name in wanted]
    reshaped = [name for name in shared if tensors[name].shape != wanted[name].shape]
    # An integer or complex tensor would be turned into a float without a word.
    retyped = [name for name in shared if name not in reshaped and not _same_family(tensors[name], wanted[name])]
    problems = [
        f"{label} {', '.join(map(_printable, names[:3]))}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (
            ("lacks", missing),
            ("has unexpected", unexpected),
            ("has other shapes for", [f"{n} {_shape(tensors[n])} for {_shape(wanted[n])}" for n in reshaped]),
            ("has other types for", retyped),
        )
        if names
    ]
    if problems:
        matched = len(shared) - len(reshaped) - len(retyped)
        raise SourceError(
            f"the checkpoint {file} does not fit ({matched} of {len(wanted)} tensors match): "
            f"it {'; it '.join(problems)}"
        )


def _same_family(given: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether copying changes no more than the precision of floats, or the width of whole numbers."""
    return all(
        kind(given) == kind(own)
        for kind in (torch.is_floating_point, torch.is_complex, lambda t: t.dtype is torch.bool)
    )


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape))[:40] or "scalar"


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) < 200 else ascii(name[:60])
